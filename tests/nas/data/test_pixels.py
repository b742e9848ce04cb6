from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas.data import pixels, sources
from nas.data.pixels import UnknownWhiteError, decode, decode_with_peak, read_header, why_unreadable
from search_spaces import UserError
from tests.nas.data.test_splits import load

SHADES = np.linspace(0, 1, 70).reshape(7, 10)
BYTES = (SHADES * 255).astype(np.uint8)


def encoded(array: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def deep(values: int, dtype: Any = np.uint16) -> np.ndarray:
    return (SHADES * values).astype(dtype)


def png_of_16_bits(colours: np.ndarray) -> bytes:
    """Pillow writes none in colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    header = struct.pack(">IIBBBBB", colours.shape[1], colours.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def pgm(white: int) -> bytes:
    return b"P5 10 7 %d\n" % white + deep(white, ">u2").tobytes()


WHITES: dict[str, tuple[bytes, float | None]] = {
    "PNG": (encoded(deep(65535), "PNG"), None),
    "TIFF": (encoded(deep(65535), "TIFF"), None),
    "TIFF, 0 is white": (encoded(65535 - deep(65535), "TIFF", tiffinfo={262: 0}), None),
    "TIFF that marks 10 bits": (encoded(deep(1023), "TIFF", tiffinfo={281: 1023}), None),
    "PNG, 10 bits given": (encoded(deep(1023), "PNG"), 1023),
    "JPEG 2000": (encoded(deep(65535), "JPEG2000", irreversible=False), None),
    "PGM of 10 bits": (pgm(1023), None),
    "PGM of 16 bits": (pgm(65535), None),
    "int32, given": (encoded(deep(255, np.int32), "TIFF"), 255),
    "floats of 0 to 1": (encoded(deep(1, np.float32), "TIFF"), None),
    "floats, given": (encoded(deep(65535, np.float32), "TIFF"), 65535),
    "floats, marked": (encoded(deep(1000, np.float32), "TIFF", tiffinfo={341: 1000.0}), None),
}


@pytest.mark.parametrize("name", WHITES)
def test_more_than_8_bits_keep_their_shades(name: str) -> None:
    content, white_level = WHITES[name]
    expected = SHADES[..., None] * 255
    found = np.asarray(decode(content, white_level)).astype(float)
    assert found.shape == (7, 10, 3)
    assert np.abs(found - expected).max() <= 1


def test_colours_of_16_bits_are_read_at_their_full_range_only() -> None:
    colours = np.stack([deep(65535)] * 3, axis=-1)
    found, peak = decode_with_peak(png_of_16_bits(colours), None)
    assert (np.asarray(found) == colours >> 8).all() and peak == 1
    with pytest.raises(UnknownWhiteError, match="rescale"):
        decode(png_of_16_bits(colours >> 6), 1023)


def test_floats_beyond_1_without_a_mark_are_refused_and_bad_ones_are_black_or_white() -> None:
    with pytest.raises(UnknownWhiteError, match="floats up to 255"):
        decode(encoded(deep(255, np.float32), "TIFF"))
    strange = np.array([[np.nan, -1, 0.5, 1]], dtype=np.float32)
    assert np.asarray(decode(encoded(strange, "TIFF")))[0, :, 0].tolist() == [0, 0, 128, 255]


@pytest.mark.parametrize("held", [True, False], ids=["in memory", "too large for memory"])
@pytest.mark.parametrize(
    ("content", "ending", "message"),
    [
        (encoded(deep(1023), "PNG"), "png", r"reach 1.6 % of white at most.*--white-level"),
        (encoded(deep(255, np.int32), "TIFF"), "tif", r"of white at most.*--white-level"),
        (encoded(deep(65535, np.float32), "TIFF"), "tif", r"floats up to 65535.*--white-level"),
        (png_of_16_bits(np.stack([deep(4095)] * 3, axis=-1)), "png", r"of white at most.*--white-level"),
    ],
)
def test_sets_of_dark_or_unmarked_images_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: bool, content: bytes, ending: str, message: str
) -> None:
    if not held:
        monkeypatch.setattr(sources, "MEMORY_BYTES", 0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(8):
            (tmp_path / name / f"{i}.{ending}").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


# ---- orientation


def exif(*entries: tuple[int, int, int, bytes], rest: bytes = b"") -> bytes:
    """A block of (tag, type, count, four bytes)."""
    table = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + bytes(4) + rest


TURNED = (0x0112, 3, 1, struct.pack("<I", 6))
AFTER = struct.pack("<I", 8 + 2 + 24 + 4)
BLOCKS = {
    "a resolution of -1/0": exif(TURNED, (0x011A, 10, 1, AFTER), rest=struct.pack("<ii", -1, 0)),
    "a resolution in letters": exif(TURNED, (0x011A, 2, 4, b"72\0\0")),
    "a sensitivity in letters": exif(TURNED, (0x8827, 2, 4, b"abc\0")),
    "a block that lies nowhere": exif(TURNED, (34665, 4, 1, struct.pack("<I", 99999999))),
}
UNREADABLE = {
    "an orientation in letters": exif((0x0112, 2, 4, b"abc\0")),
    "an orientation of 9": exif((0x0112, 3, 1, struct.pack("<I", 9))),
    "a table cut off": exif(TURNED)[:20],
    "no table": b"Exif\0\0garbage",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", [*BLOCKS, *UNREADABLE])
def test_a_bad_exif_block_costs_neither_image_nor_orientation(name: str, kind: str) -> None:
    block = {**BLOCKS, **UNREADABLE}[name]
    found = decode(encoded(np.zeros((8, 16, 3), np.uint8), kind, exif=block))
    assert found.size == ((8, 16) if name in BLOCKS else (16, 8))


@pytest.mark.filterwarnings("ignore")
def test_a_tiff_with_a_bad_exif_block_is_read() -> None:
    content = encoded(np.zeros((8, 16, 3), np.uint8), "TIFF", tiffinfo={0x0112: 6, 34665: 99999999})
    assert decode(content).size == (8, 16)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_all_orientations_are_upright_as_pillow_has_them(kind: str, turn: int) -> None:
    from PIL import ImageOps

    note = Image.Exif()
    note[0x0112] = turn
    content = encoded(np.stack([BYTES] * 3, axis=-1), kind, exif=note)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert (np.asarray(decode(content)) == np.asarray(expected)).all()


# ---- formats


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    assert ".heic" in pixels.extensions()
    grey = np.full((16, 16, 3), 99, np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(6):
            (tmp_path / name / f"{i}.HEIC").write_bytes(encoded(grey + i, "HEIF"))
    data = load(tmp_path, allow_duplicates=True)
    assert sum(map(len, (data.train, data.search, data.test))) == 12
    assert abs(int(np.asarray(data.train.image(0)).mean()) - 101) < 5


def test_too_many_open_files_is_no_fault_of_an_image() -> None:
    with pytest.raises(UserError, match=r"Too many open files; .*--num-workers"):
        why_unreadable(OSError(24, "Too many open files"))
    assert why_unreadable(OSError("it is no image")) == "it is no image"
    assert why_unreadable(ValueError()) == "ValueError"


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_header_says_how_the_image_will_lie(kind: str, orientation: int, tmp_path: Path) -> None:
    stored = Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8))
    noted = Image.Exif()
    noted[0x0112] = orientation
    stored.save(tmp_path / f"x.{kind}", exif=noted)
    header = read_header(tmp_path / f"x.{kind}")
    assert header == read_header((tmp_path / f"x.{kind}").read_bytes()) and header.size == (6, 4)
    upright = decode((tmp_path / f"x.{kind}").read_bytes())
    assert header.upright_size == upright.size
    back = upright if header.turn_back is None else upright.transpose(header.turn_back)
    assert back.tobytes() == stored.tobytes()
