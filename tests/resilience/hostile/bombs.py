"""Small files that would take much: memory for their pixels, or time for their structure."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator

from tests.resilience.hostile.avif import avif_bombs
from tests.resilience.hostile.crafted import (
    BITS,
    COMPRESSION,
    END,
    LENGTH,
    LONG,
    PHOTOMETRIC,
    SHORT,
    STRIP_BYTES,
    STRIP_OFFSETS,
    TILE_BYTES,
    TILE_LENGTH,
    TILE_OFFSETS,
    TILE_WIDTH,
    WIDTH,
    bmp,
    chunk,
    data_at,
    dot,
    encoded,
    frame_of,
    gif,
    gif_frame,
    grey_tiff,
    header,
    jpeg_with,
    many_zeros,
    noise,
    pixels,
    png,
    segment,
    tiff,
    tiled_tiff,
)
from tests.resilience.hostile.inputs import BAD_FILE, HARMLESS, PIXELS_OR_FILE, Input, file

_MIB = 2**20


def bombs() -> Iterator[Input]:
    """All of them."""
    return itertools.chain(
        _huge(), _png(), _gif(), _tiff(), _jpeg(), avif_bombs(), _slow_decoders()
    )


def _huge() -> Iterator[Input]:
    """Headers that state more pixels than there may be; nothing of them may be allocated."""
    zeros = zlib.compress(bytes(_MIB), 9)
    vp8x = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\xff" * 2
    for name, data in {
        "PNG of 2 billion x 2 billion": png(header(2**31 - 1, 2**31 - 1), pixels(b""), END),
        "PNG of 50,000 x 50,000": png(header(50_000, 50_000), chunk(b"IDAT", zeros), END),
        "PNG of 10,000 x 10,000": png(header(10_000, 10_000), chunk(b"IDAT", zeros), END),
        "PNG of 1 x 40,000,001": png(header(1, 40_000_001), chunk(b"IDAT", zeros), END),
        "PNG of 40,000,001 x 1": png(header(40_000_001, 1), chunk(b"IDAT", zeros), END),
        "PNG of 65,535 x 65,535 in grey of 16 bits": png(
            header(65_535, 65_535, 16, 0), chunk(b"IDAT", zeros), END
        ),
        "BMP of 60,000 x 60,000": bmp(60_000, 60_000),
        "BMP of 2 billion x 1": bmp(2**31 - 1, 1),
        "BMP of runs of 60,000 x 60,000": bmp(60_000, 60_000, bits=8, compression=1),
        "GIF of 65,535 x 65,535": gif(65_535, 65_535, gif_frame(65_535, 65_535)),
        "GIF whose frame is larger than its screen": gif(1, 1, gif_frame(65_535, 65_535)),
        "JPEG of 65,500 x 65,500": frame_of(65_500, 65_500),
        "TIFF of 100,000 x 100,000": grey_tiff(100_000, 100_000),
        "TIFF of 4 billion x 4 billion": grey_tiff(2**32 - 1, 2**32 - 1),
        "TIFF of 100,000 x 100,000 deflated": grey_tiff(
            100_000, 100_000, compression=8, data=zeros
        ),
        "PPM of 100,000 x 100,000": b"P6 100000 100000 255 abc",
        "PPM of 9 billion x 9 billion": b"P6 9999999999 9999999999 255 abc",
        "bitmap of 100,000 x 100,000": b"P4 100000 100000 ",
        "float map of 100,000 x 100,000": b"PF 100000 100000 1.0 ",
        "WEBP of 16,777,216 x 16,777,216": vp8x,
    }.items():
        why = "more pixels than max_image_pixels, seen in the header"
        yield file("pixel bomb", name, why, data)


def _png() -> Iterator[Input]:
    bomb = many_zeros(64)
    small = zlib.compress(bytes(_MIB - 1), 9)
    # Inflates to nearly a megabyte and then turns out broken, which counts for nothing.
    broken = small[:-4] + b"\0\0\0\0"
    text = b"Comment\0\0"
    for name, data, expected in (
        ("a zTXt of 64 MiB", dot(chunk(b"zTXt", text + bomb)), BAD_FILE),
        ("an iTXt of 64 MiB", dot(chunk(b"iTXt", b"a\0\1\0\0\0" + bomb)), BAD_FILE),
        ("an iCCP of 64 MiB", dot(chunk(b"iCCP", b"sRGB\0\0" + bomb)), BAD_FILE),
        ("100 zTXt of 1 MiB each", dot(chunk(b"zTXt", text + small) * 100), BAD_FILE),
        ("2,000 zTXt that break", dot(chunk(b"zTXt", text + broken) * 2000), BAD_FILE),
        ("64 MiB behind its one pixel", png(header(), chunk(b"IDAT", bomb), END), PIXELS_OR_FILE),
        ("200,000 chunks of text", dot(*(
            chunk(b"tEXt", b"%d\0" % number) for number in range(200_000)
        )), BAD_FILE),
        ("200,000 private chunks", dot(chunk(b"prVt") * 200_000), BAD_FILE),
        ("200,000 chunks behind the pixels", png(
            header(), pixels(b"\0\1\2\3"), chunk(b"prVt") * 200_000, END
        ), BAD_FILE),
        ("500,000 empty chunks of data", png(
            header(), chunk(b"IDAT") * 500_000, pixels(b"\0\1\2\3"), END
        ), BAD_FILE),
        ("EXIF of 60,000 entries", dot(chunk(b"eXIf", tiff(
            *((tag, 7, 60_000, 8) for tag in range(60_000))
        ))), PIXELS_OR_FILE),
    ):  # fmt: skip
        yield file("PNG bomb", f"PNG with {name}", "what it unpacks to is bounded", data, expected)


def _gif() -> Iterator[Input]:
    comment = b"!\xfe" + b"\1a" * 1_000_000 + b"\0"
    extensions = b"!\xf9\4\0\0\0\0\0" * 200_000
    for name, data, expected in (
        ("10,000 frames", gif(8, 8, gif_frame(8, 8) * 10_000), PIXELS_OR_FILE),
        ("a comment of a million blocks", gif(1, 1, comment, gif_frame()), BAD_FILE),
        ("200,000 extensions", gif(1, 1, extensions, gif_frame()), BAD_FILE),
        ("a million blocks behind its frame", gif(1, 1, gif_frame(), comment), PIXELS_OR_FILE),
    ):
        why = "the first frame counts, and is near"
        yield file("GIF bomb", f"GIF with {name}", why, data, expected)


def _tiff() -> Iterator[Input]:
    many = 1_000_000
    overlapping = tiff(
        (WIDTH, LONG, 1, 1000),
        (LENGTH, LONG, 1, 1000),
        (BITS, SHORT, 1, 8),
        (COMPRESSION, SHORT, 1, 1),
        (PHOTOMETRIC, SHORT, 1, 1),
        (STRIP_OFFSETS, LONG, 200_000, data_at(8)),
        (278, LONG, 1, 999),
        (STRIP_BYTES, LONG, 200_000, data_at(8)),
        data=struct.pack("<I", data_at(8)) * 200_000 + bytes(400_000),
    )
    tiles = tiff(
        (WIDTH, LONG, 1, 16),
        (LENGTH, LONG, 1, 16),
        (BITS, SHORT, 1, 8),
        (COMPRESSION, SHORT, 1, 1),
        (PHOTOMETRIC, SHORT, 1, 1),
        (TILE_WIDTH, LONG, 1, 16),
        (TILE_LENGTH, LONG, 1, 8),
        (TILE_OFFSETS, LONG, many, data_at(9)),
        (TILE_BYTES, LONG, many, data_at(9)),
        data=bytes(4 * many),
    )
    entries = [(tag, 7, 65_000, 8) for tag in range(1000, 61_000)]
    big = b"II\x2b\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**40)
    big += b"".join(struct.pack("<HHQQ", 256, 4, 1, 8) for _ in range(400_000))
    for name, data, expected in (
        ("a million strips", grey_tiff(8, 8, strips=many, rows=1, data=bytes(4 * many)), BAD_FILE),
        ("200,000 strips that are the whole picture", overlapping, BAD_FILE),
        ("a million tiles", tiles, BAD_FILE),
        ("tiles of 2 GiB", tiff(
            (WIDTH, LONG, 1, 8), (LENGTH, LONG, 1, 8), (BITS, SHORT, 1, 8),
            (COMPRESSION, SHORT, 1, 5), (PHOTOMETRIC, SHORT, 1, 1), (TILE_WIDTH, LONG, 1, 2**16),
            (TILE_LENGTH, LONG, 1, 2**15), (TILE_OFFSETS, LONG, 1, 8), (TILE_BYTES, LONG, 1, 9),
        ), BAD_FILE),
        ("8 x 8 pixels in a tile of 8192 x 8192", tiled_tiff(
            (8, 8), (8192, 8192), data=many_zeros(64)
        ), BAD_FILE),
        ("2,000 tiles of 20 megapixels each", tiled_tiff(
            (1, 2_000_000), (20_000, 1000), data=zlib.compress(bytes(20_000_000)), tiles=2000
        ), BAD_FILE),
        ("a strip of 4 GiB", grey_tiff(
            8, 8, (1000, LONG, 2**30, 8), rows=2**32 - 1
        ), PIXELS_OR_FILE),
        ("one row a strip, 40 million of them", grey_tiff(
            1, 40_000_000, compression=8, rows=1, data=zlib.compress(b"\0")
        ), BAD_FILE),
        ("60,000 entries on the same data", tiff(*entries, data=bytes(65_000)), BAD_FILE),
        ("a thousand million entries", big, BAD_FILE),
        ("1 GiB in 1 MiB", grey_tiff(
            30_000, 30_000, compression=8, data=many_zeros(900)
        ), BAD_FILE),
    ):  # fmt: skip
        why = "no more parts than its picture has"
        yield file("TIFF bomb", f"TIFF with {name}", why, data, expected)


def _jpeg() -> Iterator[Input]:
    # Progressive: each scan goes over all of the picture again, however little it says of it.
    base = bytearray(encoded(noise("L", (64, 64)), "JPEG", progressive=True))
    frame = base.index(b"\xff\xc2")
    base[frame + 5 : frame + 9] = struct.pack(">HH", 6000, 6000)
    scans = bytes(base).split(b"\xff\xda")
    endless = b"\xff\xda".join([*scans[:2], *(scans[2:3] * 20_000)]) + b"\xff\xd9"
    for name, data in {
        "20,000 scans": endless,
        "500,000 empty segments": jpeg_with(segment(0xE5) * 500_000),
        "500,000 comments": jpeg_with(segment(0xFE) * 500_000),
        "300,000 pieces of EXIF": jpeg_with(segment(0xE1, b"Exif\0\0a") * 300_000),
        "8 MiB between its segments": jpeg_with(b"\0" * (8 * _MIB)),
        "8 MiB of padding": jpeg_with(b"\xff" * (8 * _MIB)),
    }.items():
        yield file("JPEG bomb", f"JPEG with {name}", "a picture has about ten segments", data)
    icc = b"ICC_PROFILE\0"
    for name, data in {
        "255 pieces of a profile": jpeg_with(
            *(segment(0xE2, icc + bytes((n, 255)) + bytes(1000)) for n in range(1, 256))
        ),
        "a thumbnail that is a bomb": jpeg_with(
            segment(0xE1, b"Exif\0\0" + tiff((0x0201, 4, 1, 40), (0x0202, 4, 1, 2**31)))
        ),
        "an index of a billion pictures": jpeg_with(
            segment(0xE2, b"MPF\0" + tiff((0xB001, 4, 1, 10**9), (0xB002, 7, 16, 8)))
        ),
    }.items():
        yield file("JPEG bomb", f"JPEG with {name}", "the picture itself is whole", data, HARMLESS)
    yield file(
        "JPEG bomb",
        "JPEG turned by EXIF of 60,000 entries",
        "EXIF is bounded, and only its turn counts",
        jpeg_with(segment(0xE1, b"Exif\0\0" + tiff(*((274, 3, 1, 6) for _ in range(5000))))),
        HARMLESS,
    )


def _slow_decoders() -> Iterator[Input]:
    """What is decoded value by value takes much longer than other files of the same size."""
    size = 3000
    for name, data in {
        "PPM in text of 4 million pixels": b"P3 2000 2000 255 " + b"7 " * (3 * 2000 * 2000),
        "bitmap in text of 9 million pixels": b"P1 %d %d " % (size, size) + b"1" * size * size,
        "PPM in text with a million comments": b"P3 1 1 255\n" + b"#\n" * _MIB + b"1 2 3\n",
        "PPM with 16 MiB of comments in its head": b"P6\n" + b"#\n" * (8 * _MIB) + b"1 1 255 abc",
        "PPM with 16 MiB of spaces in its head": b"P6" + b" " * (16 * _MIB) + b"1 1 255 abc",
        "PPM with a comment of 16 MiB": b"P6\n#" + b"a" * (16 * _MIB) + b"\n1 1 255 abc",
        "BMP of 9 million pixels in runs": bmp(
            size, size, bits=8, compression=1, data=b"\1\7" * (size * size)
        ),
        "BMP with 4 million ends of lines": bmp(
            size, size, bits=8, compression=1, data=b"\0\0" * (4 * _MIB)
        ),
    }.items():
        yield file("slow to decode", name, "such pictures may have few pixels", data)
    scaled = b"P6 %d %d 254 " % (size, size) + bytes(3 * size * size)
    name = "PPM of 9 million pixels with maximum 254"
    yield file("slow to decode", name, "odd, but read as fast as others", scaled, HARMLESS)
