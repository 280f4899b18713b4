"""Read an album into a memory, keep it, and ask about what was in it.

    python scripts/ask_about_images.py album/ "what digit was in the red frame?"

Reads a folder of images and text, Markdown, a PDF file or one image, in a stream: it takes no more memory for a
thousand images than for ten. The memory is written to album.memory; asked again, the album is not read again. MODEL is
a folder that `LlavaRMT.save_pretrained` and its processor's wrote, by default the bundled one.

Time: seconds for a small album with the bundled model, beside the imports. Figure to expect: one word a question, such
as "what digit was in the red frame?  four".
"""

from __future__ import annotations

import argparse
from pathlib import Path

from multimodal import LlavaRMT, pretrained
from multimodal.reader import AlbumReader
from rmt import Memory
from rmt.errors import InputError


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("album", help="a folder, a Markdown or PDF file, or an image")
    parser.add_argument("questions", nargs="+")
    parser.add_argument("--model", type=Path, help="a folder; the bundled llava-rmt by default")
    parser.add_argument("--memory", type=Path, default=Path("album.memory"))
    args = parser.parse_args()
    try:
        ask(args)
    except InputError as error:
        parser.exit(2, f"{error}\n")


def ask(args: argparse.Namespace) -> None:
    """Read what has not been read, and ask of it."""
    if args.model is None:
        reader = AlbumReader(*pretrained.load("llava-rmt"))
    else:
        reader = AlbumReader(LlavaRMT.from_pretrained(args.model).eval(), pretrained.processor_of(args.model))
    if not args.memory.exists():
        memory = reader.read(args.album)
        memory.save(args.memory)
        print(f"{memory.meta.extra['images']} images in {memory.nbytes:,} bytes of memory")
    memory = Memory.load(args.memory, reader)
    if Path(memory.meta.source).resolve() != Path(args.album).resolve():
        raise InputError(
            f"{args.memory}: expected a memory of {args.album}, got one of {memory.meta.source}; name another file "
            "with --memory, or remove this one"
        )
    for answer in reader.ask(memory, args.questions):
        print(f"{answer.question}  {answer.text}")


if __name__ == "__main__":
    main()
