"""Pictures from files, bytes and arrays: whole, upright, 8-bit RGB, or one clear error.

Knows Pillow and nothing of models. What a file holds is never trusted: its size is read from its header before a
pixel is decoded, only formats of pictures are tried (a PostScript file would start another program), and a file cut
short is an error, not a picture that is grey below.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from rmt.errors import InputError

MAX_PIXELS = 64_000_000
"""The largest picture that is decoded unless told otherwise, in pixels: 192 MB as RGB."""

IMAGE_KINDS = frozenset(
    {".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".avif", ".jp2"}
)
"""Suffixes of files that are taken for pictures, in lower case."""

_FORMATS = ("PNG", "JPEG", "MPO", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageFile:
    """A picture on disk that is decoded when it is needed.

    Attributes:
        path: the file.
        where: where it was asked for, such as "notes.md, line 12"; errors begin with it.
        max_pixels: as of :func:`open_image`.
    """

    path: Path
    where: str = ""
    max_pixels: int = MAX_PIXELS

    def load(self) -> Image.Image:
        """The picture, as of :func:`open_image`."""
        return open_image(self.path, max_pixels=self.max_pixels, where=self.where)

    def check(self) -> None:
        """Look whether the file is there, without reading it.

        Raises:
            InputError: there is no file of that name.
        """
        _file(str(self.path), _named(str(self.path), self.where))


Picture: TypeAlias = Image.Image | np.ndarray | ImageFile
"""What an image may be given as: a PIL image, a uint8 array (height, width, 3), or a file."""


def open_image(
    source: str | Path | bytes | Image.Image | np.ndarray | ImageFile,
    *,
    max_pixels: int = MAX_PIXELS,
    where: str = "",
) -> Image.Image:
    """One picture as PIL image of mode RGB, decoded to the end, that shares nothing with its source.

    Of an animation or a file of several pages the first frame. EXIF's orientation is applied; what is transparent
    is laid over white; 16 bits a channel are rounded to 8. Colour profiles are not applied.

    Args:
        source: a path (PNG, JPEG, GIF, WebP, BMP, TIFF, PPM, AVIF, JPEG 2000), the bytes of such a file, a PIL
            image, a uint8 array of shape (height, width), (height, width, 3) or (height, width, 4), or an
            :class:`ImageFile` (whose own ``where`` and ``max_pixels`` count).
        max_pixels: more than that (width × height) is an error, before anything is decoded.
        where: where it was asked for; errors begin with it.

    Raises:
        InputError: no file, a link, no picture, a broken or an empty one, or too many pixels.
    """
    if isinstance(source, ImageFile):
        return source.load()
    if isinstance(source, np.ndarray):
        return _of_array(source, _named("an array", where), max_pixels)
    if isinstance(source, Image.Image):
        name = _named("an image", where)
        _check_size(source, name, max_pixels)
        with _whole(name):
            source.load()
            return _rgb(source, name)
    if isinstance(source, bytes):
        return _of_stream(io.BytesIO(source), _named("bytes", where), max_pixels)
    name = _named(str(source), where)
    try:
        with open(_file(str(source), name), "rb") as stream:
            return _of_stream(stream, name, max_pixels)
    except OSError as error:
        raise InputError(f"{name}: expected a readable image, got {error.strerror or error}; check it") from None


def _named(name: str, where: str) -> str:
    return f"{where}: {name}" if where else name


def _file(source: str, name: str) -> Path:
    """The path of a regular file, or an error that says what is there instead."""
    if source.lower().startswith(("http:/", "https:/", "ftp:/")):  # a Path makes one slash of two
        raise InputError(f"{name}: expected an image on this machine, got a link; download it and give its path")
    path = Path(os.path.expanduser(source))  # unlike Path.expanduser, takes "~x.png" for a name where no person has it
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, PermissionError):
            raise InputError(f"{name}: expected a readable image, got {error.strerror}; check it") from None
        raise InputError(f"{name}: expected an image, got nothing of that name; check the path") from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{name}: expected an image, got a folder; name one file in it")
    if not stat.S_ISREG(mode):  # a pipe would be waited for
        raise InputError(f"{name}: expected an image, got what is no file; name a file")
    return path


def _of_stream(stream: io.BytesIO | io.BufferedReader, name: str, max_pixels: int) -> Image.Image:
    if not stream.read(1):
        raise InputError(f"{name}: expected an image, got an empty file; copy it again")
    stream.seek(0)
    Image.init()
    formats = tuple(kind for kind in _FORMATS if kind in Image.OPEN)
    with _whole(name), warnings.catch_warnings():
        # The limit on pixels is our own, and what else Pillow warns of ends as an error or as the whole picture.
        warnings.simplefilter("ignore")
        with Image.open(stream, formats=formats) as image:
            _check_size(image, name, max_pixels)
            image.load()
            return _rgb(image, name)


@contextmanager
def _whole(name: str) -> Iterator[None]:
    """Whatever a decoder raises as one InputError."""
    try:
        yield
    except InputError:
        raise
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise InputError(
            f"{name}: expected an image of at most {limit:,} pixels, got a larger one; make it smaller, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS as well as max_pixels"
        ) from None
    except UnidentifiedImageError:
        raise InputError(
            f"{name}: expected an image ({', '.join(_FORMATS)}), got something else or one that is broken from its "
            "start; convert it to PNG or JPEG"
        ) from None
    except Exception as error:  # a broken file makes decoders fail in any way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"{name}: expected a whole image, got one that is cut short or broken ({reason}); copy it again"
        ) from None


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise InputError(f"{name}: expected an image with pixels, got {width} × {height}; leave it out")
    if width * height > max_pixels:
        raise InputError(
            f"{name}: expected an image of at most {max_pixels:,} pixels, got {width} × {height}; make it smaller, "
            "or raise max_pixels"
        )


def _of_array(array: np.ndarray, name: str, max_pixels: int) -> Image.Image:
    shape = array.shape
    if array.dtype != np.uint8 or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))):
        raise InputError(
            f"{name}: expected uint8 of shape (height, width, 3), got {array.dtype} of shape {tuple(shape)}; bring it "
            "to 0..255 with channels last"
        )
    if 0 in shape:
        raise InputError(f"{name}: expected an image with pixels, got {shape[1]} × {shape[0]}; leave it out")
    image = Image.fromarray(np.ascontiguousarray(array))
    _check_size(image, name, max_pixels)
    return _rgb(image, name)


def _rgb(image: Image.Image, name: str) -> Image.Image:
    """A decoded image upright and in RGB, without its metadata: an orientation must not be applied twice."""
    turn = _UPRIGHT.get(_orientation(image))
    key = image.info.get("transparency")
    if image.mode.startswith(("I", "F")):
        image = _eight_bit(image, name, key)
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or key is not None:
        image = _over_white(image.convert("RGBA"))
    out = image.convert("RGB")  # always a new image
    if turn is not None:
        out = out.transpose(turn)
    out.info = {}
    return out


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken metadata say nothing of the picture
        return 1


def _over_white(image: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _eight_bit(image: Image.Image, name: str, key: Any) -> Image.Image:
    """Grey of 16 bits as 8; ``key`` is the grey that is transparent, None for none."""
    values = np.asarray(image)
    # Pillow widens PNG and PPM of 16 bits to mode I; what else is 32 bits wide has no known white.
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if not sixteen:
        raise InputError(
            f"{name}: expected 8 or 16 bits a channel, got {values.dtype} (mode {image.mode}); scale it to 0..255 first"
        )
    grey = ((np.clip(values, 0, 65535).astype(np.uint32) + 128) // 257).astype(np.uint8)
    if isinstance(key, int):
        grey = np.where(values == key, np.uint8(255), grey)
    return Image.fromarray(grey)
