"""Every picture whole, upright and RGB; every other input one error that names the file."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from multimodal.images import ImageFile, open_image
from multimodal.pieces import Figure
from rmt.errors import InputError


def noise(height: int = 40, width: int = 60, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **kwargs) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **kwargs)
    return out.getvalue()


def png(width: int, height: int, depth: int, color: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG file written by hand: what its header says need not be true."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_pixels_come_back(tmp_path, kind):
    array = noise()
    path = tmp_path / "a.img"
    Image.fromarray(array).save(path, kind)
    for source in (path, str(path), path.read_bytes(), array, Image.fromarray(array), ImageFile(path)):
        image = open_image(source)
        assert (image.mode, image.size) == ("RGB", (60, 40))
        assert np.array_equal(np.asarray(image), array)
    assert np.array_equal(np.asarray(Figure(ImageFile(path)).load()), array)


def test_shares_nothing_with_its_source():
    source = Image.fromarray(noise())
    image = open_image(source)
    image.putpixel((0, 0), (1, 2, 3))
    assert source.getpixel((0, 0)) != (1, 2, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(kind, orientation):
    turned = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }[orientation]
    stored = np.repeat(np.repeat(noise(2, 3), 16, 0), 16, 1)  # blocks that JPEG keeps
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(
        encoded(Image.fromarray(stored), kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {}))
    )
    got, expected = np.asarray(image).astype(int), turned(stored).astype(int)
    assert got.shape == expected.shape
    assert np.abs(got - expected).mean() < 12
    assert np.array_equal(np.asarray(open_image(image)), np.asarray(image))


def test_transparent_is_white_in_every_mode():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (200, 0, 0, 255)
    rgba[1, 1] = (0, 0, 0, 128)
    expected = [[(200, 0, 0), (255,) * 3], [(255,) * 3, (127,) * 3]]
    assert np.array_equal(np.asarray(open_image(rgba)), expected)
    assert np.array_equal(np.asarray(open_image(encoded(Image.fromarray(rgba), "PNG"))), expected)
    grey = Image.merge("LA", [Image.new("L", (2, 2), 7), Image.new("L", (2, 2), 0)])
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    for source in (
        encoded(grey, "PNG"),
        encoded(palette, "PNG", transparency=1),
        encoded(palette, "GIF", transparency=1),
    ):
        assert np.array_equal(np.asarray(open_image(source)), np.full((2, 2, 3), 255))
    assert np.array_equal(np.asarray(open_image(encoded(palette, "PNG"))), np.full((2, 2, 3), 9))


def test_sixteen_bits_are_rounded():
    values = np.array([[0, 128, 129, 257, 40_000, 65_535]], np.uint16)
    expected = np.round(values / 257).astype(int)
    raw = b"\0" + values.astype(">u2").tobytes()
    sources = [
        png(6, 1, 16, 0, raw),
        encoded(Image.fromarray(values), "TIFF"),
        b"P5 6 1 65535\n" + values.astype(">u2").tobytes(),
    ]
    for source in sources:
        assert np.array_equal(np.asarray(open_image(source)), np.repeat(expected[..., None], 3, 2)), source[:4]
    key = struct.pack(">I", 2) + b"tRNS" + struct.pack(">H", 40_000)
    image = open_image(png(6, 1, 16, 0, raw, key + struct.pack(">I", zlib.crc32(key[4:]))))
    assert [int(v) for v in np.asarray(image)[0, :, 0]] == [0, 0, 1, 1, 255, 255]


def test_float_pictures_are_refused():
    with pytest.raises(InputError, match="8 or 16 bits"):
        open_image(encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"))


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr"])
def test_other_modes(mode):
    white = Image.new("RGB", (8, 8), "white").convert(mode)
    assert np.asarray(open_image(encoded(white, "JPEG" if mode == "YCbCr" else "TIFF"))).min() >= 254
    if mode == "CMYK":
        assert np.asarray(open_image(encoded(white, "JPEG"))).min() >= 254


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    image = open_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF"])
def test_cut_short_anywhere_is_an_error_or_the_whole_picture(kind):
    whole = encoded(Image.fromarray(noise()), kind)
    expected = np.asarray(open_image(whole))
    refused = 0
    for end in range(0, len(whole), max(1, len(whole) // 60)):
        try:
            image = open_image(whole[:end])
        except InputError as error:
            refused += "\n" not in str(error)
        else:
            assert np.array_equal(np.asarray(image), expected), f"{end} of {len(whole)} bytes"
    assert refused >= 40


@given(st.binary(max_size=200))
def test_any_bytes_end_in_one_error(data):
    for start in (b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"BM", b"P5 3 3 255\n"):
        try:
            image = open_image(start + data)
        except InputError:
            continue
        assert image.mode == "RGB"


def test_bombs_are_seen_in_the_header():
    huge = png(60_000, 60_000, 8, 2, b"")
    for source in (huge, png(9_000, 9_000, 8, 2, b"")):
        with pytest.raises(InputError, match="pixels"):
            open_image(source)
    with pytest.raises(InputError, match="at most 2,399 pixels, got 60 × 40"):
        open_image(encoded(Image.fromarray(noise()), "PNG"), max_pixels=2_399)
    with pytest.raises(InputError, match="at most 2,399"):
        open_image(noise(), max_pixels=2_399)
    assert open_image(noise(), max_pixels=2_400).size == (60, 40)


def test_a_larger_limit_does_not_warn(recwarn):
    # Beyond Pillow's own limit for a warning (89,478,485), below ours: only the truth about the pixels counts.
    with pytest.raises(InputError, match="cut short or broken"):
        open_image(png(10_000, 10_000, 8, 0, b""), max_pixels=200_000_000)
    assert not recwarn.list


def test_what_is_no_picture(tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    postscript = tmp_path / "a.eps"
    postscript.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    empty = tmp_path / "empty.png"
    empty.touch()
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    cases = {
        text: "something else",
        postscript: "something else",
        empty: "empty file",
        pipe: "no file",
        tmp_path: "a folder",
        tmp_path / "missing.png": "nothing of that name",
        tmp_path / "nul\0.png": "nothing of that name",
        "https://example.org/a.png": "download it",
    }
    for path, words in cases.items():
        with pytest.raises(InputError, match=words) as caught:
            open_image(path, where="notes.md, line 3")
        assert str(caught.value).startswith(f"notes.md, line 3: {path}: expected"), path
        if not str(path).startswith("http"):
            with pytest.raises(InputError, match=words):
                ImageFile(tmp_path / path, "notes.md, line 3").load()


@pytest.mark.parametrize("array", [np.zeros((2, 2, 3)), np.zeros((3, 2, 5), np.uint8), np.zeros((0, 2, 3), np.uint8)])
def test_wrong_arrays(array):
    with pytest.raises(InputError, match="expected"):
        open_image(array)


def test_empty_pictures():
    with pytest.raises(InputError, match="0 × 5"):
        open_image(Image.new("RGB", (0, 5)))
    with pytest.raises(InputError, match="expected"):
        open_image(png(0, 5, 8, 2, b""))
