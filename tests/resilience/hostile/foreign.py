"""Formats that Pillow knows and the service never tries, and other kinds of files."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from PIL import Image

from tests.resilience.hostile.crafted import encoded, noise
from tests.resilience.hostile.inputs import Input, file

# Pillow writes these by itself: name and mode of the picture.
_WRITTEN = {
    "BLP": "P", "DDS": "RGB", "DIB": "RGB", "EPS": "RGB", "ICNS": "RGBA", "ICO": "RGBA",
    "JPEG2000": "RGB", "MSP": "1", "PALM": "P", "PCX": "RGB", "PDF": "RGB",
    "QOI": "RGB", "SGI": "RGB", "SPIDER": "F", "TGA": "RGB", "XBM": "1",
}  # fmt: skip


def formats() -> Iterator[tuple[str, bytes]]:
    """A file of every format outside of the list, by its name."""
    for name, mode in _WRITTEN.items():
        picture = noise("RGB", (64, 64))
        yield name, encoded(_in_mode(picture, mode), name)
    yield from {
        "BUFR": b"BUFR" + bytes(60),
        "CUR": b"\0\0\2\0\1\0\x08\x08\0\0\1\0\1\0\x28\0\0\0\x16\0\0\0" + bytes(90),
        "DCX": struct.pack("<II", 0x3ADE68B1, 12) + bytes(200),
        "FITS": b"SIMPLE  =                    T".ljust(2880),
        "FLI": struct.pack("<IHHHHHH", 128, 0xAF12, 1, 8, 8, 8, 3).ljust(128, b"\0"),
        "FPX": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512),
        "FTEX": b"FTEX" + bytes(60),
        "GBR": struct.pack(">IIIII4sI", 29, 2, 8, 8, 1, b"GIMP", 10) + bytes(80),
        "GD": b"\xff\xff\0\x08\0\x08" + bytes(1100),
        "GRIB": b"GRIB\0\0\0\1" + bytes(60),
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(60),
        "IM": b"Image type: RGB image\r\nImage size (x*y): 8*8\r\n\x1a".ljust(900, b"\0"),
        "IMT": b"\nImage Tools\nwidth 8\nheight 8\n\x0c" + bytes(64),
        "IPTC": b"\x1c\x03\x3c\0\2\1\0" + bytes(60),
        "MCIDAS": b"\0\0\0\0\0\0\0\4" + bytes(300),
        "MIC": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1500),
        "MPEG": b"\0\0\1\xb3\x00\x80\x08" + bytes(60),
        "PCD": bytes(2048) + b"PCD_" + bytes(2000),
        "PIXAR": b"\x80\xe8\0\0" + bytes(600),
        "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(240),
        "SUN": struct.pack(">8I", 0x59A66A95, 8, 8, 24, 192, 1, 0, 0) + bytes(192),
        "WAL": b"wall".ljust(32, b"\0") + struct.pack("<II", 8, 8) + bytes(200),
        "WMF": b"\xd7\xcd\xc6\x9a\0\0" + bytes(60),
        "EMF": b"\1\0\0\0\x6c\0\0\0" + bytes(32) + b" EMF" + bytes(60),
        "XPM": b'/* XPM */\nstatic char *x[] = {\n"1 1 1 1",\n"a c #ff0000",\n"a"\n};\n',
        "XVTHUMB": b"P7 332\n#END_OF_COMMENTS\n8 8 255\n" + bytes(64),
    }.items()  # fmt: skip


def foreign() -> Iterator[Input]:
    """All of them, and files that are no pictures."""
    for name, data in formats():
        why = "its decoder is not on the list, and is never tried"
        yield file("another format", f"a file of {name}", why, data)
    ghostscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (w) file\n%%EOF\n"
    yield from (
        file("another format", name, "no image in a format that is read", data)
        for name, data in {
            "EPS that runs a command": ghostscript,
            "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
            "JPEG XL": b"\xff\x0a" + bytes(100),
            "JPEG 2000 as a bare stream": b"\xff\x4f\xff\x51" + bytes(100),
            "MP4": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(100),
            "ELF": b"\x7fELF\2\1\1" + bytes(100),
            "Java class": b"\xca\xfe\xba\xbe\0\0\0\x34" + bytes(100),
            "pickle": b"\x80\x04cos\nsystem\n(S'id'\ntR.",
            "ONNX": b"\x08\x08\x12\x07pytorch" + bytes(100),
            "gzip": b"\x1f\x8b\x08\0" + bytes(100),
            "ZIP": b"PK\3\4" + bytes(100),
            "PostScript in DOS form": b"\xc5\xd0\xd3\xc6" + bytes(28) + ghostscript,
        }.items()
    )


def _in_mode(picture: Image.Image, mode: str) -> Image.Image:
    if mode == "P":
        return picture.quantize(256)
    return picture.convert("L").convert(mode) if mode in ("1", "F") else picture.convert(mode)
