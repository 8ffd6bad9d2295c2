"""What an AVIF takes to be opened and decoded, by its parts and its AV1 data.

libavif makes frames of the size that their AV1 data has, whatever the boxes around them state, and
scales them. While it reads the boxes nothing else runs, for a time with the square of the number of
items, and it copies what the boxes refer to each time that they do. So they are read here first, as
libavif reads them, for all pictures that it may choose to decode.

Boxes: ISO/IEC 14496-12, chapter 8, and 23008-12, chapters 6 and 9.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator

from PIL import UnidentifiedImageError

from service.engine.av1 import frame_sizes
from service.engine.errors import ImageTooLargeError
from service.engine.screening import SMALLER_HINT, check_pixels, odd

_BRANDS = (b"avif", b"avis", b"mif1", b"msf1")  # with which Pillow takes a file for an AVIF
# Boxes, items and what they refer to, units of AV1. A picture of 150 tiles has some 2000.
_MOST_PARTS = 2**14
# Identical tiles may share their data, and tiles their properties.
_MOST_SHARED_BYTES = 2**24
# Colours, transparency, a gain map and smaller ones; or layers that refine each other.
_MOST_PICTURES = 4
# Of some tables only the length is read, in entries of so many bytes; there may be one of each.
_ENTRY_BYTES = {b"iref": 2, b"grpl": 2, b"stco": 4, b"co64": 8, b"stsc": 12}
_TABLES = {b"iinf", b"iloc", b"iprp", b"idat", b"stsd", b"stsz", *_ENTRY_BYTES}

_Place = tuple[int, int]  # where something begins and ends
_Size = tuple[int, int]  # width and height


def screen_avif(data: bytes | memoryview, max_pixels: int) -> None:
    """Look at an AVIF before it is opened; at nothing else.

    Args:
        data: A whole file of any format.
        max_pixels: Largest width times height that is decoded at all.

    Raises:
        ImageDecodeError: Opening it would take more than its pixels can, or its boxes are damaged.
        ImageTooLargeError: Some picture in it has more pixels, or all of them together much more.
        UnidentifiedImageError: It has no picture in AV1.
    """
    if data[4:8] != b"ftyp" or bytes(data[8:12]) not in _BRANDS:
        return
    screening = _Screening(data, max_pixels)
    try:
        screening.read_file()
    except (struct.error, IndexError):
        raise odd("its boxes are damaged") from None
    if not screening.has_picture:
        raise UnidentifiedImageError


class _Reader:
    """Numbers one behind the other."""

    def __init__(self, data: memoryview, place: _Place) -> None:
        self._data = data
        self.at, self._end = place

    def __call__(self, size: int) -> int:
        start, self.at = self.at, self.at + size
        if self.at > self._end:
            raise odd("its boxes are damaged")
        return int.from_bytes(self._data[start : self.at])


class _Screening:
    """One file, and what of its limits is left."""

    def __init__(self, data: bytes | memoryview, max_pixels: int) -> None:
        self._data, self._max_pixels = memoryview(data), max_pixels
        self._parts_left = _MOST_PARTS
        self._bytes_left = len(data) + _MOST_SHARED_BYTES
        self._pixels_left = _MOST_PICTURES * max_pixels
        self.has_picture = False

    def read_file(self) -> None:
        seen = set()
        for kind, place in self._boxes((0, len(self._data)), is_file=True):
            if kind in (b"ftyp", b"meta", b"moov"):
                # libavif has all that it needs by then, or refuses the file.
                if kind in seen:
                    return
                seen.add(kind)
            if kind == b"meta":
                self._read_items(place)
            elif kind == b"moov":
                for trak in self._inside(place, b"trak"):
                    self._read_track(trak)

    def _boxes(self, place: _Place, *, is_file: bool = False) -> Iterator[tuple[bytes, _Place]]:
        """Kind and content of each box (14496-12, 4.2).

        Of a file not the last ones if they are damaged: there may be anything behind a picture.
        """
        at, end = place
        while at < end:
            self._count()
            if is_file and end - at < 16:
                return
            size, kind = struct.unpack_from(">I4s", self._data, at)
            start = at + 8
            if size == 1:
                (size,) = struct.unpack_from(">Q", self._data, start)
                start += 8
            at = at + size if size or not is_file else end
            if not start <= at <= end:
                if is_file:
                    return
                raise odd("its boxes are damaged")
            yield kind, (start, at)

    def _inside(self, place: _Place, *path: bytes) -> Iterator[_Place]:
        """Contents of all boxes of these kinds, each in one of the kind before."""
        for kind, inner in self._boxes(place):
            if kind == path[0]:
                yield from self._inside(inner, *path[1:]) if path[1:] else (inner,)

    def _tables(self, place: _Place) -> dict[bytes, _Place]:
        found: dict[bytes, _Place] = {}
        for kind, (start, end) in self._boxes(place):
            if kind not in _TABLES:
                continue
            if kind in found:
                raise odd("it has boxes twice")
            found[kind] = start, end
            if kind in _ENTRY_BYTES:
                self._count((end - start) // _ENTRY_BYTES[kind])
        return found

    def _read_items(self, meta: _Place) -> None:
        boxes = self._tables((meta[0] + 4, meta[1]))
        kinds = dict(self._kinds(boxes[b"iinf"])) if b"iinf" in boxes else {}
        stated = dict(self._stated(boxes[b"iprp"])) if b"iprp" in boxes else {}
        for item, pieces in self._extents(boxes) if b"iloc" in boxes else ():
            self._refer(sum(end - start for start, end in pieces))
            if kinds.get(item) not in (b"av01", b"grid"):
                continue
            content = self._joined(pieces)
            if kinds[item] == b"av01":
                self._add_picture(content, stated.get(item, ()))
            elif content:
                # 23008-12, 6.6.2.3: of two lengths, and the size behind four bytes.
                width, height = struct.unpack_from(">II" if content[1] & 1 else ">HH", content, 4)
                check_pixels(width, height, self._max_pixels)

    def _joined(self, pieces: list[_Place]) -> memoryview:
        if len(pieces) == 1:
            return self._data[slice(*pieces[0])]
        return memoryview(b"".join(self._data[start:end] for start, end in pieces))

    def _kinds(self, iinf: _Place) -> Iterator[tuple[int, bytes]]:
        """Kinds of items by their numbers (14496-12, 8.11.6)."""
        read = _Reader(self._data, iinf)
        count = read(2 if read(4) >> 24 == 0 else 4)
        for _, place in itertools.islice(self._boxes((read.at, iinf[1])), count):
            read = _Reader(self._data, place)
            item = read(2 if read(4) >> 24 < 3 else 4)
            read(2)
            yield item, read(4).to_bytes(4)

    def _extents(self, boxes: dict[bytes, _Place]) -> Iterator[tuple[int, list[_Place]]]:
        """Where the pieces of each item are (14496-12, 8.11.3)."""
        read = _Reader(self._data, boxes[b"iloc"])
        version, sizes = read(4) >> 24, read(2)
        offset_size, length_size, base_size, index_size = (sizes >> n & 15 for n in (12, 8, 4, 0))
        number_size = 4 if version > 1 else 2
        for _ in range(read(number_size)):
            self._count()
            item = read(number_size)
            is_inside = version > 0 and read(2) & 15 == 1
            read(2)
            origin = read(base_size) + (boxes[b"idat"][0] if is_inside and b"idat" in boxes else 0)
            pieces = []
            for _ in range(read(2)):
                self._count()
                read(index_size if version > 0 else 0)
                start = origin + read(offset_size)
                pieces.append((start, start + read(length_size)))
            yield item, pieces

    def _stated(self, iprp: _Place) -> Iterator[tuple[int, list[_Size]]]:
        """Widths and heights that are stated for items (14496-12, 8.11.14)."""
        properties: list[tuple[bytes, _Place]] = []
        for kind, place in self._boxes(iprp):
            if kind == b"ipco":
                properties += self._boxes(place)
            elif kind == b"ipma":
                yield from self._associations(_Reader(self._data, place), properties)

    def _associations(
        self, read: _Reader, properties: list[tuple[bytes, _Place]]
    ) -> Iterator[tuple[int, list[_Size]]]:
        head = read(4)
        for _ in range(read(4)):
            self._count()
            item = read(4 if head >> 24 else 2)
            sizes = []
            for _ in range(read(1)):
                self._count()
                index = read(2) & 0x7FFF if head & 1 else read(1) & 0x7F
                if index == 0:
                    continue
                kind, (start, end) = properties[index - 1]
                if kind == b"ispe":
                    sizes.append(struct.unpack_from(">II", self._data, start + 4))
                elif kind != b"colr":  # a profile is not copied
                    self._refer(end - start)
            yield item, sizes

    def _read_track(self, trak: _Place) -> None:
        """A sequence, of which the first sample is decoded (14496-12, 8.3 to 8.7)."""
        for meta in self._inside(trak, b"meta"):
            self._read_items(meta)
        sizes = []
        for start, _ in self._inside(trak, b"tkhd"):
            at = start + (88 if self._data[start] else 76)
            sizes.append(struct.unpack_from(">HxxH", self._data, at))
        for stbl in self._inside(trak, b"mdia", b"minf", b"stbl"):
            self._read_samples(self._tables(stbl), sizes)

    def _read_samples(self, tables: dict[bytes, _Place], stated: Iterable[_Size]) -> None:
        if b"stsd" not in tables or b"stsz" not in tables:
            return
        start, end = tables[b"stsd"]
        if b"av01" not in [kind for kind, _ in self._boxes((start + 8, end))]:
            return
        for table, offset_size in (b"stco", 4), (b"co64", 8):
            if table in tables:
                read = _Reader(self._data, tables[table])
                _, chunks = read(4), read(4)
                if chunks:
                    start = read(offset_size)
                    end = start + self._first_size(tables[b"stsz"])
                    self._add_picture(self._data[start:end], stated)

    def _first_size(self, stsz: _Place) -> int:
        read = _Reader(self._data, stsz)
        _, of_all, _ = read(4), read(4), read(4)
        return of_all or read(4)

    def _add_picture(self, data: memoryview, stated: Iterable[_Size]) -> None:
        """What is decoded for one picture, and what it is scaled to then."""
        self.has_picture = True
        decoded = scaled = 0
        for width, height in frame_sizes(data, self._count):
            check_pixels(width, height, self._max_pixels)
            decoded += width * height
        for width, height in stated:
            check_pixels(width, height, self._max_pixels)
            scaled = max(scaled, width * height)
        self._pixels_left -= max(decoded, scaled)
        if self._pixels_left < 0:
            raise ImageTooLargeError(
                f"The pictures in the image file have more than {_MOST_PICTURES} times"
                f" {self._max_pixels} pixels.",
                hint=SMALLER_HINT,
            )

    def _count(self, parts: int = 1) -> None:
        self._parts_left -= parts
        if self._parts_left < 0:
            raise odd("it has many more parts than a picture has")

    def _refer(self, size: int) -> None:
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise odd("it refers to the same data again and again")
