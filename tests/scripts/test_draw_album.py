"""The script that draws albums: both of its outputs, and one line for what cannot be."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image


def test_a_sheet_and_an_album(script, tmp_path, capsys):
    draw_album = script("draw_album")
    sheet, album = tmp_path / "sheet.png", tmp_path / "album"
    text = tmp_path / "book.txt"
    text.write_text("\n\n".join(f"Part {n}." for n in range(30)))
    few = ["--framed", "2", "--others", "3", "--size", "20"]
    assert draw_album.main(["--out", str(sheet), "--album", str(album), "--text", str(text), *few]) == 0
    assert np.asarray(Image.open(sheet)).shape == (2 * 41, 3 * 41, 3)
    assert len(list(album.glob("*.png"))) == 5
    assert "Part 0." in (album / "album.md").read_text()
    assert capsys.readouterr().out.count("5 pictures") == 2
    assert draw_album.main(["--album", str(album), *few]) == 2  # not a second time into the same folder
    assert capsys.readouterr().err.startswith("draw_album: ")
    assert draw_album.main(["--album", str(tmp_path / "x"), "--text", str(tmp_path / "none.txt"), *few]) == 2
    assert "none.txt" in capsys.readouterr().err


def test_something_must_be_asked_for(script, capsys):
    draw_album = script("draw_album")
    with pytest.raises(SystemExit):
        draw_album.main([])
    assert "expected --out FILE or --album FOLDER" in capsys.readouterr().err
