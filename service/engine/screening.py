"""What a picture file may cost besides its pixels: how often it is read, and how many parts it has.

The limit on pixels bounds what a file of an honest structure takes. But decoders read structure
bit by bit, some of it in Python, and believe what it says: a file of nothing but empty segments, or
one whose strips are each the whole picture, holds up a thread for minutes or takes gigabytes.
"""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Mapping

from PIL import Image

from service.engine.errors import ImageDecodeError, ImageTooLargeError, ImageTooSlowError

# A picture of the usual kinds is read some ten times, and once more for each block of a PNG, which
# has 8 KiB as a rule.
_READS, _BYTES_A_READ = 8192, 2048
# Decoders written in Python take about a microsecond a value, and hold the interpreter meanwhile.
_SLOW_PIXELS = 2**18
_SLOW_READS = 4 * _SLOW_PIXELS
# Comments between the values of a picture in text: Pillow copies all that follows for each.
_MOST_COMMENTS = 64
# Every scan of a JPEG goes over the whole picture, and takes some bytes at least. A progressive one
# has about ten.
_MOST_SCANNED_PIXELS, _PIXELS_OF_A_SCAN, _BYTES_OF_A_SCAN = 2**30, 2**12, 8
_SCAN, _EXIF = b"\xff\xda", b"Exif\0\0"
# Smaller files have no room for much of anything.
_SMALL_BYTES = 2**14
# EXIF is joined piece by piece; what fits into one piece of 64 KiB is the rule.
_MOST_EXIF_PIECES = 16
_MOST_EXIF_BYTES = 2**20
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"MM\0+", b"II+\0")
_MOST_TIFF_ENTRIES, _MOST_TIFF_VALUES = 4096, 2**17
_TIFF_BYTES, _TIFF_LENGTHS = (1, 2, 7), (3, 4, 16)  # kinds of values
_TIFF_PARTS = (273, 279, 324, 325)
_ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH = 278, 322, 323
# Tiles stand out over their picture, where a few pixels of it are in each.
_COMMON_TILE_PIXELS, _TILE_STEP, _MOST_PADDING = 2**20, 16, 4
_TEXT_STARTS = (b"P1", b"P2", b"P3")
# Chunks of a PNG that are unpacked, each up to a megabyte.
_PACKED_CHUNKS, _MOST_PACKED_CHUNKS = (b"zTXt", b"iTXt", b"iCCP"), 64

_HINT = "Save the picture anew with a common program."
SMALLER_HINT = "Send a smaller picture; the network sees only a small one anyway."


class MeteredFile(io.BytesIO):
    """A file in memory that may be read only so often, and for so long by one thread."""

    def __init__(self, data: bytes | memoryview, timeout_s: float = 0.0) -> None:
        """Begin at its start.

        Args:
            data: The file.
            timeout_s: Of processor time in this thread from now on, so that who must wait for a
                processor loses nothing; 0: any.
        """
        super().__init__(data)
        self._reads_left = _READS + len(data) // _BYTES_A_READ
        self._timeout_s = timeout_s
        self._until_s = time.thread_time() + timeout_s

    def read(self, size: int | None = -1, /) -> bytes:
        """Read on.

        Raises:
            ImageDecodeError: It has been read too often.
            ImageTooSlowError: What was read before took too long to decode.
        """
        self._reads_left -= 1
        if self._reads_left < 0:
            raise odd("it has many more parts than a picture of its size")
        if self._timeout_s and time.thread_time() > self._until_s:
            raise ImageTooSlowError(
                f"Decoding the image takes more than {self._timeout_s:g} s of processor time.",
                hint=_HINT,
            )
        return super().read(size)

    def allow_slow(self) -> None:
        """The decoder reads value by value."""
        self._reads_left = _SLOW_READS


def screen_file(data: bytes | memoryview) -> None:
    """Look at a file before it is opened.

    Raises:
        ImageDecodeError: Opening it would take more than its pixels can.
    """
    start = bytes(data[:4])
    if start in _TIFF_STARTS:
        _screen_tiff(data)
    elif len(data) > _SMALL_BYTES:
        _screen_repetition(start, bytes(data))


def screen_opened(
    image: Image.Image, file: MeteredFile, data: bytes | memoryview, max_pixels: int
) -> None:
    """Look at a file that is open, before its pixels are decoded.

    Args:
        image: As Pillow has opened it.
        file: That it was opened from.
        data: All of it.
        max_pixels: Largest width times height that is decoded at all.

    Raises:
        ImageDecodeError: It has more parts than its picture has room for.
        ImageTooLargeError: Its decoder is too slow for so many pixels, or makes room for more.
    """
    size = image.width * image.height
    tiles = getattr(image, "tile", ())
    if tiles and tiles[0][0] in Image.DECODERS:
        if size > _SLOW_PIXELS:
            raise ImageTooLargeError(
                f"The image has {size} pixels in a form that is slow to decode; of such pictures"
                f" {_SLOW_PIXELS} are.",
                hint="Save it as PNG, or uncompressed with a maximum of 255.",
            )
        file.allow_slow()
    if image.format == "TIFF":
        _check_tiles(image, max_pixels)
    if len(tiles) > 1:
        covered = sum((right - left) * (low - high) for _, (left, high, right, low), *_ in tiles)
        if covered > size * len(image.getbands()):
            raise odd("its parts are more than the picture")
    if image.format in ("JPEG", "MPO") and has_many_scans(data, size):
        raise odd("it has too many scans")


def has_many_scans(data: bytes | memoryview, pixels: int) -> bool:
    """Whether a JPEG of so many pixels goes over them much more often than others."""
    most = _MOST_SCANNED_PIXELS // max(pixels, _PIXELS_OF_A_SCAN)
    return len(data) // _BYTES_OF_A_SCAN > most and bytes(data).count(_SCAN) > most


def has_packed_chunks(data: bytes) -> bool:
    """Whether a PNG may have something to unpack besides its pixels."""
    return any(name in data for name in _PACKED_CHUNKS)


def is_common_exif(image: Image.Image) -> bool:
    """Whether an image's EXIF has a size that is worth a look."""
    return len(image.info.get("exif", b"")) <= _MOST_EXIF_BYTES


def _screen_repetition(start: bytes, data: bytes) -> None:
    """Bound what each takes much longer than its bytes."""
    if start[:2] == b"\xff\xd8":
        if data.count(_EXIF) > _MOST_EXIF_PIECES:
            raise odd("its EXIF is in too many pieces")
    elif start == b"\x89PNG":
        if sum(map(data.count, _PACKED_CHUNKS)) > _MOST_PACKED_CHUNKS:
            raise odd("it has too many texts and profiles")
    elif start[:2] in _TEXT_STARTS and data.count(b"#") > _MOST_COMMENTS:
        raise odd(f"it has more than {_MOST_COMMENTS} comments")


def _screen_tiff(data: bytes | memoryview) -> None:
    """Bound what the first directory has Pillow make lists of (TIFF 6.0, section 2)."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2] == 43  # where Pillow looks for it
    count_form, entry_form, offset_form = ("Q", "HHQ8x", "Q") if big else ("H", "HHI4x", "I")
    try:
        (at,) = struct.unpack_from(order + offset_form, data, 8 if big else 4)
        (entries,) = struct.unpack_from(order + count_form, data, at)
    except (struct.error, OverflowError):
        return  # Pillow says what is wrong
    if entries > _MOST_TIFF_ENTRIES:
        raise odd(f"its directory has {entries} entries")
    at += struct.calcsize(order + count_form)
    entry = struct.Struct(order + entry_form)
    tile_tags = set()
    for number in range(min(entries, (len(data) - at) // entry.size)):
        tag, kind, values = entry.unpack_from(data, at + number * entry.size)
        if values > _MOST_TIFF_VALUES and (kind not in _TIFF_BYTES or tag in _TIFF_PARTS):
            raise odd(f"tag {tag} has {values} values")
        if tag in (_TILE_WIDTH, _TILE_LENGTH):
            # Pillow knows fewer kinds of numbers than libtiff, and takes the last, not the first.
            if kind not in _TIFF_LENGTHS or values != 1 or tag in tile_tags:
                raise odd(f"tag {tag} is not one number")
            tile_tags.add(tag)


def _check_tiles(image: Image.Image, max_pixels: int) -> None:
    """Bound the parts of a TIFF, each of which is decoded as a whole.

    Raises:
        ImageDecodeError: All of them are many, or much larger than the picture.
        ImageTooLargeError: One of them is too large.
    """
    width, length = _part_of_tiff(image)
    parts = -(-image.width // width) * -(-image.height // length)
    if parts > _MOST_TIFF_VALUES:
        raise odd("it is cut into too many parts")
    padded = (image.width + _TILE_STEP) * (image.height + _TILE_STEP)
    most = max(max_pixels, padded, _COMMON_TILE_PIXELS)
    if width * length > most:
        raise ImageTooLargeError(
            f"The image has parts of {width} x {length} = {width * length} pixels; the limit is"
            f" {most}.",
            hint=SMALLER_HINT,
        )
    if parts * width * length > _MOST_PADDING * most:
        raise odd("its parts are more than the picture")


def _part_of_tiff(image: Image.Image) -> tuple[int, int]:
    """Width and length of a strip or tile by the tags, for each of which room is made at once."""
    tags: Mapping[int, object] = image.tag_v2  # type: ignore[attr-defined]
    width, length = tags.get(_TILE_WIDTH), tags.get(_TILE_LENGTH)
    if width is None or length is None:
        width, length = image.width, tags.get(_ROWS_PER_STRIP, image.height)
        if isinstance(length, int):
            length = min(length, image.height)
    if not isinstance(width, int) or not isinstance(length, int) or min(width, length) < 1:
        return image.size  # Pillow says what is wrong
    return width, length


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Hold a size to the limit.

    Raises:
        ImageTooLargeError: It has more pixels.
    """
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"The image has {width} x {height} = {width * height} pixels; the limit is"
            f" {max_pixels}.",
            hint=SMALLER_HINT,
        )


def odd(why: str) -> ImageDecodeError:
    """The error for a file that no common program has written."""
    return ImageDecodeError(f"The image file is not as it should be: {why}.", hint=_HINT)
