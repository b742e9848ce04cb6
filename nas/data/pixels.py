"""Encoded images to RGB of 8 bits, upright, as a person sees them.

More than 8 bits are scaled by what the file says white is: its own mark, or its bit depth. Cameras and scanners store
10 to 14 bits in files of 16 without a mark, and floats have no depth, so `peak` tells how bright an image became.
"""

from __future__ import annotations

import errno
import io
import math
import struct
import zlib
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from nas.data.classes import shown
from search_spaces import UserError

# What Pillow raises on bytes that are no image.
CORRUPT: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError)
CORRUPT += (ArithmeticError, AttributeError, NotImplementedError, struct.error, zlib.error)
CORRUPT += (Image.DecompressionBombError,)

# Limits of the machine, which say nothing of the image.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

_EXTENSIONS: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp")
_EXTENSIONS += (".ppm", ".pgm", ".pbm", ".pnm", ".jp2")
HEIF = (".heic", ".heif", ".hif")

_ORIENTATION = 0x0112
_UPRIGHT = {  # EXIF's numbers
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SAME_SIZE = (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM)
_BACK = {Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270, Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90}
# TIFF's tags
_WIDTH, _HEIGHT = 256, 257
_BITS, _PHOTOMETRIC, _MAX_VALUE, _SAMPLE_FORMAT, _SAMPLE_MAX = 258, 262, 281, 339, 341
_SUB_IFDS = (34665, 34853, 40965)  # EXIF, GPS, interoperability


class Header(NamedTuple):
    """What an image's file says before its pixels.

    Args:
        size: (width, height) as stored.
        turn: that makes it upright, as `decode` does; None where it is.
    """

    size: tuple[int, int]
    turn: Image.Transpose | None

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) of what `decode` gives."""
        lying = self.turn is not None and self.turn not in _SAME_SIZE
        return (self.size[1], self.size[0]) if lying else self.size

    @property
    def turn_back(self) -> Image.Transpose | None:
        """From upright to as stored."""
        return None if self.turn is None else _BACK.get(self.turn, self.turn)


class UnknownWhiteError(ValueError):
    """Pixels of more than 8 bits, of which nothing says which value is white."""


def why_unreadable(error: Exception) -> str:
    """On one line, of an error that is CORRUPT.

    Raises:
        UserError: the machine's limits are reached.
    """
    if isinstance(error, OSError) and error.errno in _EXHAUSTED:
        raise UserError(f"{error.strerror}; raise the limit (ulimit -n), or give fewer --num-workers") from None
    return shown(str(error)) or type(error).__name__


@cache
def extensions() -> tuple[str, ...]:
    """Of the files that are read as images, in small letters; HEIF and HEIC where pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        heif: tuple[str, ...] = ()
    else:
        pillow_heif.register_heif_opener()
        heif = HEIF
    return (*_EXTENSIONS, *((".avif",) if features.check("avif") else ()), *heif)


def decode(content: bytes | Image.Image, white_level: float | None = None) -> Image.Image:
    """RGB, upright.

    Args:
        white_level: the value of white in images of more than 8 bits; None takes what the file says.

    Raises:
        CORRUPT: what is no image; floats above 1 that say nothing of white.
    """
    return decode_with_peak(content, white_level)[0]


def decode_with_peak(content: bytes | Image.Image, white_level: float | None) -> tuple[Image.Image, float | None]:
    """`decode`, and of an image of more than 8 bits its brightest value as a share of white."""
    image = _open(content) if isinstance(content, bytes) else content
    raw_mode = _raw_mode(image)
    _load(image)
    image = _upright(image)
    peak = None
    if image.mode == "F" or image.mode.startswith("I"):
        image, peak = _to_8_bits(image, white_level)
    elif ";16" in raw_mode:  # colours, of which Pillow has taken the higher 8 bits
        if white_level not in (None, 65535):
            raise UnknownWhiteError("colours of 16 bits are read at their full range only; rescale them")
        peak = float(np.asarray(image.convert("RGB")).max(initial=0)) / 255
    return (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB"), peak


def read_header(file: Path | bytes) -> Header:
    """Of an image's file or its content, whose pixels are not decoded; raises CORRUPT."""
    with _open(file) as image:
        return Header(_stored_size(image), _turn(image))


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """(width, height); of a TIFF, which Pillow turns itself, its `size` is the upright one in some versions."""
    if image.format != "TIFF":
        return image.size
    width, height = (int(_tags(image)[tag]) for tag in (_WIDTH, _HEIGHT))
    return width, height


def _open(file: Path | bytes) -> Image.Image:
    extensions()  # registers what reads HEIF, once in each process
    try:
        return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    except UnidentifiedImageError:  # its message names an object in memory
        raise OSError("it is no image") from None


def _raw_mode(image: Image.Image) -> str:
    """As the file stores the pixels, e.g. RGB;16B; empty for an image in memory."""
    tiles = getattr(image, "tile", None)
    arguments: Any = tiles[0][3] if tiles else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _load(image: Image.Image) -> None:
    """Decodes the pixels; Pillow would read a TIFF's other EXIF blocks too, and fail if they are bad."""
    if image.format == "TIFF":
        exif = image.getexif()
        for tag in _SUB_IFDS:
            exif.pop(tag, None)
    image.load()


def _upright(image: Image.Image) -> Image.Image:
    """Turned as the camera noted; ImageOps.exif_transpose would write all of EXIF anew, which fails on a bad field."""
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """That the camera noted; None if the image is upright."""
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # whatever a bad block raises: the pixels are good
        return None


def _to_8_bits(image: Image.Image, white_level: float | None) -> tuple[Image.Image, float]:
    values, tags = np.asarray(image), _tags(image)
    if image.mode == "F":
        values = np.nan_to_num(values.astype(np.float64), posinf=np.inf, neginf=0)
        white = white_level or _marked(tags) or _white_of_floats(values)
        grey = np.rint(values.clip(0, white) / white * 255)
    else:
        if tags.get(_BITS) == (32,) and _sample_format(tags) == 1:
            values = values.view(np.uint32)  # Pillow has no unsigned 32 bits
        values = values.astype(np.int64)
        white = int(white_level or _marked(tags) or _white_of_depth(tags))
        grey = values.clip(0, white) * 256 // (white + 1)  # the higher 8 bits, if white has all bits
    if tags.get(_PHOTOMETRIC) == 0:  # 0 is white; Pillow turns 8 bits only
        grey = 255 - grey
    return Image.fromarray(grey.astype(np.uint8)), float(values.max(initial=0)) / white


def _tags(image: Image.Image) -> Any:
    """A TIFF's, by number."""
    return getattr(image, "tag_v2", {})


def _sample_format(tags: Any) -> int:
    """1 for unsigned integers, 2 for signed ones, 3 for floats."""
    return int(np.ravel(tags.get(_SAMPLE_FORMAT, 1))[0])


def _marked(tags: Any) -> float | None:
    """White as a TIFF marks it."""
    marks = [float(np.ravel(tags[tag])[0]) for tag in (_SAMPLE_MAX, _MAX_VALUE) if tag in tags]
    return next((mark for mark in marks if 0 < mark < np.inf), None)


def _white_of_depth(tags: Any) -> int:
    """The largest value of the file's bits; Pillow scales PNM and JPEG 2000 to 16."""
    bits = int(np.ravel(tags.get(_BITS, 16))[0])
    return int(2 ** (bits - 1 if tags and _sample_format(tags) == 2 else bits) - 1)


def _white_of_floats(values: np.ndarray) -> float:
    if values.max(initial=0) > 1:
        raise UnknownWhiteError(f"floats up to {values.max():g}, and no mark of which is white; give --white-level")
    return 1.0


def preprocessing(image_size: int) -> str:
    """What `eval_transform` of batches does, in words: of no other images is the accuracy that which was measured."""
    return (
        f"upright RGB; the shorter side resized to {resized_side(image_size)} pixels (bicubic, antialiased), then "
        f"the central {image_size} x {image_size} pixels"
    )


def resized_side(image_size: int) -> int:
    """Pixels of the image's shorter side before its middle is cut out."""
    return math.floor(image_size / crop_share(image_size))


def crop_share(image_size: int) -> float:
    """What of the resized image's shorter side remains: small images keep their borders."""
    return 0.95 if image_size >= 128 else 1.0


# How pictures in pages are saved: small images have fine colours.
_SAVED: dict[str, dict[str, Any]] = {"JPEG": {"quality": 85, "subsampling": 0}, "PNG": {"optimize": True}}


def as_base64(
    image: Image.Image,
    side: int,
    kind: Literal["JPEG", "PNG"] = "JPEG",
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> str:
    """The picture in base64, made smaller, in place, where it is longer than `side` pixels."""
    image.thumbnail((side, side), resample)
    file = io.BytesIO()
    image.save(file, kind, **_SAVED[kind])
    return b64encode(file.getvalue()).decode()
