"""Images as people have them, to what is sent: whole files, or uint8 pixels.

NumPy and Pillow are never imported for it: only a caller who has imported them can hold their
objects, and these say by themselves what is needed.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from service.client.errors import ImageError, image_error

_PATHS = (str, os.PathLike)
_NPY_MAGIC = b"\x93NUMPY"
_NPY_ALIGNMENT = 64  # of the pixels, from the start of the file
_FORMATS_HINT = "Give a path, bytes, a file opened with 'rb', a PIL image or a uint8 array."
_SHAPES_HINT = "Give uint8 [H, W, 3] (RGB) or [H, W] (grey)."
# Modes that PNG or TIFF keep as they are; the server then does with them what it does with files.
_PNG_MODES = frozenset(("1", "L", "LA", "I;16", "P", "RGB", "RGBA"))
_TIFF_MODES = frozenset(("CMYK", "F", "I"))


class Readable(Protocol):
    """A file opened for reading bytes."""

    def read(self) -> bytes:
        """All of it."""


class PixelArray(Protocol):
    """A NumPy array, or what looks like one: uint8 [H, W, 3] or [H, W]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes."""

    @property
    def dtype(self) -> Any:
        """Its text is the datatype's name."""

    def tobytes(self) -> bytes:
        """All elements, the last index varying fastest."""


class Picture(Protocol):
    """A Pillow image."""

    @property
    def mode(self) -> str:
        """Kind of pixels."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""

    def tobytes(self) -> bytes:
        """Its pixels."""


ImageLike: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | Readable | PixelArray | Picture"
)


@dataclass(frozen=True, slots=True)
class Pixels:
    """Pixels of one image.

    Attributes:
        shape: (H, W, 3) for RGB or (H, W) for grey.
        data: uint8, row by row.
    """

    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a call, as it will be sent.

    Attributes:
        index: Its place in the call, from 0.
        source: Its path or file name, where it has one.
        content: A whole file, pixels, or why there is neither.
    """

    index: int
    source: str | None
    content: bytes | Pixels | ImageError


def load_entry(image: ImageLike, index: int) -> Entry:
    """Read an image; one that can't be read becomes an error in its place.

    The error's cause is the OSError, where there was one.
    """
    source = source_of(image)
    try:
        return Entry(index, source, load_content(image))
    except OSError as broken:
        detail = f"It can't be read: {broken.strerror or broken}."
        error = image_error(index, source, "unreadable_file", detail, "")
        error.__cause__ = broken
    except ValueError as wrong:
        detail, _, hint = str(wrong).partition("\n")
        error = image_error(index, source, "unsupported_image", detail, hint)
    return Entry(index, source, error)


def load_content(image: ImageLike) -> bytes | Pixels:
    """Read an image.

    Raises:
        OSError: Its file can't be read.
        ValueError: It is none that can be sent; the message's second line is a hint.
    """
    if isinstance(image, _PATHS):
        with open(image, "rb") as file:  # noqa: PTH123, a str stays what it is
            return _check_file(file.read())
    if isinstance(image, bytes | bytearray | memoryview):
        return _check_file(bytes(image))
    module = sys.modules.get("PIL.Image")
    if module is not None and isinstance(image, module.Image):
        return _load_picture(image)
    if hasattr(image, "dtype") and hasattr(image, "shape") and hasattr(image, "tobytes"):
        return _load_array(image)
    if hasattr(image, "read"):
        content = image.read()
        if not isinstance(content, bytes):
            raise ValueError("The file is open as text.\nOpen it with 'rb'.")
        return _check_file(content)
    raise ValueError(f"A {type(image).__name__} is no image.\n{_FORMATS_HINT}")


def is_quick(image: ImageLike) -> bool:
    """Whether loading it touches neither a disk nor an encoder."""
    return isinstance(image, bytes | bytearray | memoryview) or hasattr(image, "dtype")


def source_of(image: ImageLike) -> str | None:
    """The image's path or file name, where it has one."""
    if isinstance(image, _PATHS):
        return os.fsdecode(image)
    # Files and Pillow's images know theirs; a file descriptor's name is a number.
    name = getattr(image, "name", None) or getattr(image, "filename", None)
    return name if isinstance(name, str) else None


def write_npy(images: Sequence[Pixels]) -> bytes:
    """Write images of one shape as ``numpy.save`` would write [N, H, W, 3] or grey [N, H, W].

    Source: NEP 1, format version 1.0.
    """
    shape = (len(images), *images[0].shape)
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    fixed = len(_NPY_MAGIC) + 4  # with the version and the header's length
    padding = -(fixed + len(header) + 1) % _NPY_ALIGNMENT
    header += b" " * padding + b"\n"
    length = len(header).to_bytes(2, "little")
    return b"".join((_NPY_MAGIC, b"\x01\x00", length, header, *(each.data for each in images)))


def _check_file(content: bytes) -> bytes:
    if not content:
        raise ValueError(f"It is empty.\n{_FORMATS_HINT}")
    if content.startswith(_NPY_MAGIC):
        raise ValueError("It is a .npy file.\nGive numpy.load(file), an array, instead.")
    return content


def _load_array(array: Any) -> Pixels:
    shape = tuple(int(size) for size in array.shape)
    if str(array.dtype) != "uint8":
        raise ValueError(
            f"The array's datatype is {array.dtype}, not uint8.\n"
            "Bring the values to 0..255 and convert them with .astype('uint8')."
        )
    if len(shape) == 3 and shape[2] == 1:
        shape = shape[:2]
    if 0 in shape or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] != 3):
        hint = _SHAPES_HINT
        if len(shape) == 4:
            hint = "Give an array of several images to classify_many."
        raise ValueError(f"The array has shape {list(shape)}.\n{hint}")
    data = array.tobytes()
    if len(shape) == 2 and shape[1] == 3:
        # The server takes [N, H, 3] for one RGB image.
        rgb = bytearray(3 * len(data))
        rgb[0::3] = rgb[1::3] = rgb[2::3] = data
        return Pixels((*shape, 3), bytes(rgb))
    return Pixels(shape, data)


def _load_picture(picture: Any) -> bytes:
    """Write a Pillow image as a file that loses nothing."""
    from PIL import ImageOps

    try:
        # As the server does with the file that it came from; loads the pixels if need be.
        picture = ImageOps.exif_transpose(picture)
        plain = picture.mode in ("L", "RGB") and "transparency" not in picture.info
        if not plain and picture.mode in _PNG_MODES:
            return _save(picture, "PNG", compress_level=1)
        if picture.mode in _TIFF_MODES:
            # Otherwise it takes the compression of the file that it came from, which may be JPEG.
            return _save(picture, "TIFF", compression="raw")
        if not plain:
            picture = picture.convert("RGB")
    except Exception as broken:  # Pillow's readers fail in many ways
        raise OSError(f"{broken}") from broken
    width, height = picture.size
    if not width or not height:
        raise ValueError(f"The picture has {width} x {height} pixels.\n{_FORMATS_HINT}")
    # Pixels with a head of some bytes: for most networks encoding takes longer than sending.
    kind = "P5" if picture.mode == "L" else "P6"
    return f"{kind} {width} {height} 255\n".encode() + bytes(picture.tobytes())


def _save(picture: Any, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
