"""AVIFs: files of any boxes, and such as take much more than they state."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from tests.resilience.hostile.inputs import Input, file

# A grey picture of 6400 x 6400 in AV1: 41 megapixels in 441 bytes.
_LARGE = zlib.decompress(
    base64.b85decode(
        "c-j+U;Np`1Z1}(b+YF8jQ==8k0`jl4_y39f!C-X$l#ciMM4O8Jo#(V0J+ybJ9xLEhvaj`=KFR&Y?Sra9D(z*S>-"
        "=u&8W{9{{hXNa%zt;xs2=k4kf8+t?@`H)"
    )
)
_ALPHA = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0"
_GREY = b"\x81\x1f\x1c\0"  # the configuration of such a picture


@dataclass(frozen=True)
class Item:
    """An item of an AVIF.

    Attributes:
        data: All of it.
        size: What is stated as its width and height.
        kind: Its type.
        refers: To the items of these numbers, which begin with 1, ...
        refers_as: ... in this way.
        pieces: How many its data is in.
        is_inside: The data is in the box around the items' descriptions.
    """

    data: bytes
    size: tuple[int, int]
    kind: bytes = b"av01"
    refers: tuple[int, ...] = ()
    refers_as: bytes = b"dimg"
    pieces: int = 1
    is_inside: bool = False


def box(kind: bytes, *parts: bytes) -> bytes:
    """A box of any content."""
    content = b"".join(parts)
    return struct.pack(">I", 8 + len(content)) + kind + content


def meta(*boxes: bytes) -> bytes:
    """The box around descriptions of items."""
    return box(b"meta", bytes(4), box(b"hdlr", bytes(8), b"pict", bytes(13)), *boxes)


def avif(*items: Item, more: bytes = b"") -> bytes:
    """A file of items, the first of which is shown.

    Args:
        items: Numbered from 1 on.
        more: Boxes beside the items' descriptions.
    """
    inside = b"".join(item.data for item in items if item.is_inside)
    start = len(_described(items, 0, inside, more)) + 8
    data = b"".join(item.data for item in items if not item.is_inside)
    return _described(items, start, inside, more) + box(b"mdat", data)


def info(number: int, kind: bytes) -> bytes:
    """The description of an item."""
    return box(b"infe", struct.pack(">IIH4sx", 3 << 24, number, 0, kind))


def infos(*entries: bytes) -> bytes:
    """All descriptions."""
    return box(b"iinf", struct.pack(">II", 1 << 24, len(entries)), *entries)


def type_of_file(brand: bytes = b"avif") -> bytes:
    """The first box of a file."""
    return box(b"ftyp", brand, bytes(4), brand, b"mif1miaf")


def grid(rows: int, columns: int, width: int, height: int) -> bytes:
    """The data of an item that is made of others."""
    return struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, width, height)


def _described(items: tuple[Item, ...], start: int, inside: bytes, more: bytes) -> bytes:
    places, references, properties, associations = b"", b"", b"", b""
    at, at_inside = start, 0
    for number, item in enumerate(items, 1):
        places += struct.pack(">HHHH", number, item.is_inside, 0, item.pieces)
        step = -(-len(item.data) // item.pieces)
        for offset in range(0, len(item.data), step):
            origin = at_inside if item.is_inside else at
            places += struct.pack(">II", origin + offset, min(step, len(item.data) - offset))
        at_inside += len(item.data) if item.is_inside else 0
        at += 0 if item.is_inside else len(item.data)
        if item.refers:
            numbers = struct.pack(f">HH{len(item.refers)}H", number, len(item.refers), *item.refers)
            references += box(item.refers_as, numbers)
        own = box(b"ispe", struct.pack(">III", 0, *item.size))
        own += box(b"av1C", _GREY)
        own += box(b"auxC", bytes(4), _ALPHA) if item.refers_as == b"auxl" else box(b"free")
        properties += own
        associations += struct.pack(">HBBBB", number, 3, *range(3 * number - 2, 3 * number + 1))
    described = meta(
        box(b"pitm", struct.pack(">IH", 0, 1)),
        box(b"iloc", struct.pack(">IBBH", 1 << 24, 0x44, 0, len(items)), places),
        infos(*(info(number, item.kind) for number, item in enumerate(items, 1))),
        box(b"iref", bytes(4), references),
        box(
            b"iprp",
            box(b"ipco", properties),
            box(b"ipma", struct.pack(">II", 0, len(items)), associations),
        ),
        *([box(b"idat", inside)] if inside else []),
        more,
    )
    return type_of_file() + described


def avif_bombs() -> Iterator[Input]:
    """Files that take much more than the size that they state."""
    large, small = (6400, 6400), (32, 32)
    transparent = Item(_LARGE, large, refers=(1,), refers_as=b"auxl")
    tiles = [Item(_LARGE, (64, 64)) for _ in range(4)]
    shared = box(b"ipco", box(b"abcd", bytes(2**20)))
    shared += box(
        b"ipma",
        struct.pack(">II", 0, 200),
        *(struct.pack(">HB", n, 255) + b"\1" * 255 for n in range(1, 201)),
    )
    for name, data in {
        "that states 41 megapixels": avif(Item(_LARGE, large)),
        "of 41 megapixels that states 32 x 32": avif(Item(_LARGE, small)),
        "of 41 megapixels in pieces that states 32 x 32": avif(Item(_LARGE, small, pieces=9)),
        "with transparency of 41 megapixels": avif(Item(_LARGE, small), transparent),
        "of tiles of 41 megapixels": avif(
            Item(grid(2, 2, 128, 128), (128, 128), b"grid", refers=(2, 3, 4, 5)), *tiles
        ),
        "of tiles for 256 megapixels that states 32 x 32": avif(
            Item(grid(2, 2, 16_000, 16_000), small, b"grid", refers=(2, 3, 4, 5)), *tiles
        ),
        "of 200,000 items": type_of_file()
        + meta(infos(*(info(number, b"abcd") for number in range(1, 200_001)))),
        "of 1 MiB that is copied 51,000 times": type_of_file() + meta(box(b"iprp", shared)),
    }.items():
        yield file("AVIF bomb", f"AVIF {name}", "its data counts, not what it states", data)
