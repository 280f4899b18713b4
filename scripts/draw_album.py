"""Draw pictures of the offline world: on one sheet to look at, or as an album with text to read and ask about.

    python scripts/draw_album.py --out sheet.png
    python scripts/draw_album.py --album album --framed 4 --others 20
    python scripts/draw_album.py --album album --text book.txt --size 64 --seed 3

An album is numbered PNGs, album.md (text and images in turn), answers.json (questions about the whole of it, such as
"what digit was in the red frame?", with their answers) and questions.json (a line each, of each picture alone, for the
task image_open). Digits are handwriting of scikit-learn that no model of ours was trained on. Everything follows from
the seed. Time: about a second.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from evals.tasks.images.album import contact_sheet, diary, paragraphs, pictures, write


def settings(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What the command was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="write a sheet of all pictures to this file (.png)")
    parser.add_argument("--album", help="write an album into this new folder")
    parser.add_argument("--framed", type=int, default=8, help="digits in frames of different colours, at most 8")
    parser.add_argument("--others", type=int, default=56, help="pictures without a frame")
    parser.add_argument("--size", type=int, default=32, help="pixels of both sides of a picture, at least 16")
    parser.add_argument("--text", help="a text file whose paragraphs stand between the pictures; else a made-up diary")
    parser.add_argument("--most", type=int, default=3, help="at most so many paragraphs before each picture")
    parser.add_argument("--photographs", action="store_true", help="a third of the others are scikit-image's")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    if not chosen.out and not chosen.album:
        parser.error("expected --out FILE or --album FOLDER, got neither; name one")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw what was asked for; 2 and one line where that cannot be."""
    chosen = settings(arguments)
    try:
        shown = pictures(chosen.seed, chosen.framed, chosen.others, chosen.size, photographs=chosen.photographs)
        if chosen.out:
            Image.fromarray(contact_sheet([picture() for picture in shown])).save(chosen.out)
            print(f"{chosen.out}: {len(shown)} pictures")
        if chosen.album:
            if chosen.text:
                text = paragraphs(Path(chosen.text).read_text(encoding="utf-8"))
            else:
                text = diary(np.random.default_rng((chosen.seed, 2)))
            paths = write(chosen.album, shown, text, chosen.seed, chosen.most)
            print(f"{paths['album']}: {len(shown)} pictures; what is right is in {paths['answers'].name}")
    except (ValueError, OSError) as error:
        print(f"draw_album: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
