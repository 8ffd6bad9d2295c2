"""Image files: good ones in every format that is decoded, and the parts to build bad ones of."""

from __future__ import annotations

import functools
import io
import struct
import zlib

import numpy as np
from PIL import Image

PX = 40
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# TIFF tags and types (TIFF 6.0, sections 2 and 8).
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 273, 277, 278, 279
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
SHORT, LONG = 3, 4


def noise(mode: str = "RGB", size: tuple[int, int] = (PX, PX)) -> Image.Image:
    """A picture that doesn't compress, so that most of its file is pixels."""
    rng = np.random.default_rng(size[0])
    shape = (size[1], size[0], len(Image.new(mode, (1, 1)).getbands()))
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels if shape[2] > 1 else pixels[..., 0]).convert(mode)


def _noise_of_16_bits() -> Image.Image:
    return Image.fromarray(np.random.default_rng(16).integers(0, 2**16, (PX, PX), dtype=np.uint16))


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    """A file of it."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@functools.cache
def good_files() -> dict[str, bytes]:
    """One good file of every kind that is decoded."""
    picture, grey = noise(), noise("L")
    frames = [noise(size=(PX, PX)).rotate(90 * turn) for turn in range(3)]
    movie = {"save_all": True, "append_images": frames[1:]}
    return {
        "jpeg": encoded(picture, "JPEG"),
        "jpeg progressive": encoded(picture, "JPEG", progressive=True),
        "jpeg grey": encoded(grey, "JPEG"),
        "jpeg cmyk": encoded(picture.convert("CMYK"), "JPEG"),
        "png": encoded(picture, "PNG"),
        "png palette": encoded(picture.quantize(64), "PNG"),
        "png alpha": encoded(noise("RGBA"), "PNG"),
        "png 16 bits": encoded(_noise_of_16_bits(), "PNG"),
        "apng": encoded(frames[0], "PNG", **movie),
        "webp": encoded(picture, "WEBP"),
        "webp lossless": encoded(picture, "WEBP", lossless=True),
        "webp animated": encoded(frames[0], "WEBP", **movie),
        "gif": encoded(picture, "GIF"),
        "gif animated": encoded(frames[0], "GIF", **movie),
        "bmp": encoded(picture, "BMP"),
        "tiff": encoded(picture, "TIFF"),
        "tiff lzw": encoded(picture, "TIFF", compression="tiff_lzw"),
        "tiff deflate": encoded(picture, "TIFF", compression="tiff_adobe_deflate"),
        "tiff jpeg": encoded(picture, "TIFF", compression="jpeg"),
        "tiff packbits": encoded(picture, "TIFF", compression="packbits"),
        "avif": encoded(picture, "AVIF"),
        "ppm": encoded(picture, "PPM"),
        "pgm": encoded(grey, "PPM"),
        "ppm text": b"P3 8 8 255\n" + b" ".join(b"%d" % (n % 256) for n in range(192)) + b"\n",
    }


@functools.cache
def many_zeros(mib: int, window_bits: int = 15) -> bytes:
    """So many zeros as a stream of zlib or, with 31 bits, gzip; its checksum is not right."""
    packer = zlib.compressobj(9, zlib.DEFLATED, window_bits)
    # Behind a full flush nothing refers to what was before: the same piece may be repeated.
    first, again = (
        packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    return first + again * (mib - 1) + packer.flush()


def chunk(name: bytes, data: bytes = b"", *, length: int | None = None, crc: int = 0) -> bytes:
    """A chunk of a PNG; ``crc`` is added to the right one."""
    checksum = (zlib.crc32(name + data) + crc) % 2**32
    stated = len(data) if length is None else length
    return struct.pack(">I", stated) + name + data + struct.pack(">I", checksum)


def header(width: int = 1, height: int = 1, depth: int = 8, colour: int = 2) -> bytes:
    """The first chunk of a PNG."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def png(*chunks: bytes) -> bytes:
    """A PNG of these chunks."""
    return PNG_MAGIC + b"".join(chunks)


def dot(*chunks: bytes) -> bytes:
    """A good PNG of one pixel with more chunks before the pixel."""
    return png(header(), *chunks, pixels(b"\0\1\2\3"), END)


def pixels(rows: bytes) -> bytes:
    """The data of a PNG."""
    return chunk(b"IDAT", zlib.compress(rows))


END = chunk(b"IEND")


def gif(width: int, height: int, *blocks: bytes) -> bytes:
    """A GIF with a palette of two colours."""
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0)
    return b"GIF89a" + screen + b"\0\0\0\xff\xff\xff" + b"".join(blocks) + b";"


def gif_frame(
    width: int = 1, height: int = 1, code_size: int = 2, data: bytes = b"\x44\1"
) -> bytes:
    """A frame of a GIF; the data as one sub-block."""
    place = struct.pack("<HHHHB", 0, 0, width, height, 0)
    return b"," + place + bytes([code_size, len(data)]) + data + b"\0"


def bmp(
    width: int,
    height: int,
    *,
    bits: int = 24,
    compression: int = 0,
    colours: int = 0,
    offset: int = 54,
    header_bytes: int = 40,
    data: bytes = bytes(4),
) -> bytes:
    """A BMP with a header of version 3."""
    info = struct.pack(
        "<IiiHHIIiiII", header_bytes, width, height, 1, bits, compression, 0, 0, 0, colours, 0
    )
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, offset) + info + data


def tiff(
    *entries: tuple[int, int, int, int], data: bytes = b"", following: int = 0, at: int = 8
) -> bytes:
    """A TIFF with one directory of entries (tag, type, count, value or offset), then data."""
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", at) + directory + struct.pack("<I", following) + data


def data_at(entries: int) -> int:
    """Where the data begins in a TIFF of so many entries."""
    return 8 + 2 + 12 * entries + 4


def grey_tiff(
    width: int,
    length: int,
    *more: tuple[int, int, int, int],
    compression: int = 1,
    data: bytes = bytes(64),
    strips: int = 1,
    rows: int | None = None,
) -> bytes:
    """A grey TIFF whose strips all begin where the data does."""
    entries = 8 + len(more)
    start = data_at(entries)
    return tiff(
        (WIDTH, LONG, 1, width),
        (LENGTH, LONG, 1, length),
        (BITS, SHORT, 1, 8),
        (COMPRESSION, SHORT, 1, compression),
        (PHOTOMETRIC, SHORT, 1, 1),
        (STRIP_OFFSETS, LONG, strips, start),
        (ROWS_PER_STRIP, LONG, 1, length if rows is None else rows),
        (STRIP_BYTES, LONG, strips, len(data) if strips == 1 else start),
        *more,
        data=data,
    )


def tiled_tiff(
    size: tuple[int, int],
    tile: tuple[int, int],
    *more: tuple[int, int, int, int],
    data: bytes,
    tiles: int = 1,
) -> bytes:
    """A deflated grey TIFF in tiles, all of the same data; sizes are width and length."""
    start = data_at(10 + len(more))
    places = struct.pack(f"<{tiles}I", *([start + 8 * tiles] * tiles))
    lengths = struct.pack(f"<{tiles}I", *([len(data)] * tiles))
    offsets, counts = (start, start + 4 * tiles) if tiles > 1 else (start + 8, len(data))
    return tiff(
        (WIDTH, LONG, 1, size[0]),
        (LENGTH, LONG, 1, size[1]),
        (BITS, SHORT, 1, 8),
        (COMPRESSION, SHORT, 1, 8),
        (PHOTOMETRIC, SHORT, 1, 1),
        (SAMPLES, SHORT, 1, 1),
        (TILE_WIDTH, LONG, 1, tile[0]),
        (TILE_LENGTH, LONG, 1, tile[1]),
        *more,
        (TILE_OFFSETS, LONG, tiles, offsets),
        (TILE_BYTES, LONG, tiles, counts),
        data=places + lengths + data,
    )


def segment(marker: int, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A segment of a JPEG."""
    stated = len(data) + 2 if length is None else length
    return bytes((0xFF, marker)) + struct.pack(">H", stated) + data


def jpeg_with(*segments: bytes, base: str = "jpeg") -> bytes:
    """A good JPEG with more segments behind its start."""
    data = good_files()[base]
    return data[:2] + b"".join(segments) + data[2:]


def frame_of(width: int, height: int) -> bytes:
    """A JPEG whose frame states another size than its data has."""
    data = bytearray(good_files()["jpeg"])
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)
