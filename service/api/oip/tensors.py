"""Input tensors: from JSON or binary data to the images that the engine takes.

Binary data is looked at where it lies: no copy, and no Python object for an element of it.

Source: Open Inference Protocol, "Tensor Data"; Triton's binary tensor data extension.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.api.base64_images import decode_base64
from service.api.limits import BodyLimits
from service.api.oip.body import JSON_BYTES
from service.api.oip.document import read_list, read_number, read_parameters, read_text, shown
from service.engine.errors import (
    EmptyRequestError,
    ImageError,
    InvalidParameterError,
    InvalidTensorError,
    MalformedRequestError,
)
from service.engine.images import Chunk, Pixels
from service.metadata import Input

PIXELS, FILES = "UINT8", "BYTES"
_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "UINT8", "INT8"), 1),
    **dict.fromkeys(("UINT16", "INT16", "FP16", "BF16"), 2),
    **dict.fromkeys(("UINT32", "INT32", "FP32"), 4),
    **dict.fromkeys(("UINT64", "INT64", "FP64"), 8),
}
_NEVER_JSON = ("FP16", "BF16")
_LENGTH_BYTES = 4  # before each element of a BYTES tensor, little-endian
_MAX_DIMENSIONS = 32
# So many numbers are converted at a time, between which other threads have their turn.
_NUMBERS_AT_ONCE = 2**16
_DATA_HINT = (
    "Give every input either 'data' or the parameter 'binary_data_size', and put binary data behind"
    f" the JSON, whose length {JSON_BYTES} says."
)
_BYTES_HINT = "Before each element of a BYTES tensor its length is 4 bytes, little-endian."


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input as it was sent.

    Attributes:
        name: Of the input.
        datatype: In the protocol's words.
        shape: As stated, not compared with JSON data yet.
        data: JSON values, flat or nested; or bytes, as many as shape and datatype say.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | memoryview


def read_tensors(inputs: Any, binary: memoryview) -> list[Tensor]:
    """Read the list of inputs, and hand out the bytes behind the JSON in their order.

    Raises:
        InputError: It is no such list, or the bytes are not as many as it says.
    """
    tensors, at = list[Tensor](), 0
    for given in read_list(inputs, "'inputs'"):
        tensor, size = _read_tensor(given, binary[at:])
        tensors.append(tensor)
        at += size
    if at != len(binary):
        raise MalformedRequestError(
            f"Behind the JSON are {len(binary)} bytes, but its inputs have {at} bytes of binary"
            " data.",
            hint=_DATA_HINT,
        )
    return tensors


def _read_tensor(given: dict[str, Any], binary: memoryview) -> tuple[Tensor, int]:
    """One input, and how many of the bytes it takes."""
    name = read_text(given.get("name"), "The 'name' of an input")
    what = f"input {shown(name)}"
    datatype = read_text(given.get("datatype"), f"The 'datatype' of {what}")
    if datatype not in _ITEM_BYTES and datatype != FILES:
        raise InvalidTensorError(
            f"The datatype of {what} is {shown(datatype)}.",
            hint=f"There are {', '.join(_ITEM_BYTES)} and {FILES}.",
        )
    shape = _read_shape(given.get("shape"), what)
    parameters = read_parameters(given.get("parameters"), f"the parameters of {what}")
    check_no_shared_memory(parameters)
    data, size = given.get("data"), parameters.get("binary_data_size")
    if (data is None) is (size is None):
        raise MalformedRequestError(
            f"The {what} has {'no data' if data is None else 'JSON and binary data'}.",
            hint=_DATA_HINT,
        )
    if data is not None:
        if datatype in _NEVER_JSON:
            raise InvalidTensorError(
                f"The {what} has {datatype} data as JSON, which has no such numbers.",
                hint="Send it as binary tensor data.",
            )
        if not isinstance(data, list):
            raise MalformedRequestError(
                f"The 'data' of {what} is {shown(data)}, not a list.", hint=_DATA_HINT
            )
        return Tensor(name, datatype, shape, data), 0
    size = read_number(size, f"'binary_data_size' of {what}")
    # In Python's own integers: a product of hostile numbers must not wrap around.
    wanted = math.prod(shape) * _ITEM_BYTES.get(datatype, 0)
    if datatype != FILES and size != wanted:
        raise InvalidTensorError(
            f"The {what} has a 'binary_data_size' of {size}, but {datatype} of shape"
            f" {list(shape)} takes {shown(wanted)} bytes.",
            hint="Make datatype, shape and size agree.",
        )
    if size > len(binary):
        raise MalformedRequestError(
            f"The {what} has {size} bytes of binary data, but only {len(binary)} are left behind"
            " the JSON.",
            hint=_DATA_HINT,
        )
    return Tensor(name, datatype, shape, binary[:size]), size


def images_of(tensor: Tensor, size: Input, limits: BodyLimits) -> Chunk:
    """The images of the one input that every model takes.

    Args:
        tensor: UINT8 pixels [N, height, width, 3]; or BYTES [N], an image file each, which JSON
            has as base64.
        size: What the model takes.
        limits: On the number of images.

    Returns:
        Pixels uint8 [N, height, width, 3], or encoded images, with an error in the place of one
        whose base64 is broken.

    Raises:
        EmptyRequestError: N is 0.
        InvalidTensorError: Datatype or shape are wrong, or the data is not of them.
        RequestTooLargeError: There are too many images.
    """
    expected = [-1, size.height, size.width, 3]
    if tensor.datatype not in (PIXELS, FILES):
        raise InvalidTensorError(
            f"Input {tensor.name!r} has datatype {tensor.datatype}, but the model takes {PIXELS}.",
            hint=f"Send {PIXELS} pixels {expected}, or {FILES} [-1] with an image file each.",
        )
    shape = tensor.shape
    right = len(shape) == 1 or shape[1:] == (1,)
    if tensor.datatype == PIXELS:
        right = len(shape) == 4 and list(shape[1:]) == expected[1:]
    if not right:
        wanted = expected if tensor.datatype == PIXELS else [-1]
        raise InvalidTensorError(
            f"Input {tensor.name!r} has shape {list(shape)}, but the model takes {wanted} of"
            f" {tensor.datatype}.",
            hint=f"Send {PIXELS} pixels of the model's size, or {FILES} [-1] with an image file"
            " of any size each.",
        )
    if not shape[0]:
        raise EmptyRequestError(
            f"The batch is empty: input {tensor.name!r} has shape {list(shape)}.",
            hint="Send at least one image.",
        )
    limits.check_images(shape[0])
    if tensor.datatype == FILES:
        return _files(tensor)
    if isinstance(tensor.data, memoryview):
        return np.frombuffer(tensor.data, np.uint8).reshape(shape)
    return _pixels(tensor.data, tensor)


def raw_image(data: memoryview, name: str, size: Input) -> Pixels:
    """The single image of a raw request, whose body is nothing but its pixels.

    Raises:
        InvalidTensorError: There are more or less bytes than one image has.
    """
    if len(data) != size.pixel_bytes:
        raise InvalidTensorError(
            f"The raw request has {len(data)} bytes, but input {name!r} of shape"
            f" {[1, size.height, size.width, 3]} takes {size.pixel_bytes}.",
            hint=f"A raw request ({JSON_BYTES}: 0) is one image of {PIXELS} pixels.",
        )
    return np.frombuffer(data, np.uint8).reshape(1, size.height, size.width, 3)


def check_no_shared_memory(parameters: dict[str, Any]) -> None:
    """Refuse a tensor that lies in shared memory.

    Raises:
        InvalidParameterError: It does.
    """
    if any(name.startswith("shared_memory_") for name in parameters):
        raise InvalidParameterError(
            "shared memory is not supported; send binary tensor data.",
            hint="The 'extensions' of GET /v2 are those that are.",
        )


def _read_shape(given: Any, what: str) -> tuple[int, ...]:
    if not isinstance(given, list) or len(given) > _MAX_DIMENSIONS:
        raise InvalidTensorError(
            f"The 'shape' of {what} is {shown(given)}.",
            hint=f"Send a list of at most {_MAX_DIMENSIONS} sizes.",
        )
    for size in given:
        if type(size) is not int or not 0 <= size < 2**63:
            raise InvalidTensorError(
                f"The 'shape' of {what} has the size {shown(size)}.",
                hint="Sizes are whole numbers, 0 or more.",
            )
    return tuple(given)


def _pixels(data: list[Any], tensor: Tensor) -> Pixels:
    """Make UINT8 of JSON numbers; everything per number is done in C."""
    shape = tensor.shape
    pixels = bytearray()
    if data and isinstance(data[0], list):
        _check_count(len(data), shape[0], tensor)
        for image in data:
            pixels += _as_bytes(_flat(image, shape[1:], tensor), len(pixels), tensor)
    else:
        _check_count(len(data), math.prod(shape), tensor)
        for start in range(0, len(data), _NUMBERS_AT_ONCE):
            pixels += _as_bytes(data[start : start + _NUMBERS_AT_ONCE], start, tensor)
    return np.frombuffer(pixels, np.uint8).reshape(shape)


def _flat(values: Any, shape: tuple[int, ...], tensor: Tensor) -> list[Any]:
    """Flatten lists that are nested as a shape says."""
    level = [values]
    for size in shape:
        if set(map(type, level)) != {list} or set(map(len, level)) != {size}:
            raise InvalidTensorError(
                f"The 'data' of input {tensor.name!r} is nested otherwise than its shape"
                f" {list(tensor.shape)} says.",
                hint="Send it flat, or nested exactly so.",
            )
        level = list(itertools.chain.from_iterable(level))
    return level


def _as_bytes(numbers: list[Any], before: int, tensor: Tensor) -> bytes:
    """Numbers from 0 to 255 as they are; no text, no fraction, and true is not 1."""
    if set(map(type, numbers)) == {int}:
        try:
            return bytes(numbers)
        except ValueError:
            pass  # told below
    index, odd = next(
        (i, n) for i, n in enumerate(numbers) if type(n) is not int or not 0 <= n <= 255
    )
    raise InvalidTensorError(
        f"Element {before + index} of input {tensor.name!r} is {shown(odd)}; {tensor.datatype}"
        " takes whole numbers from 0 to 255.",
        hint="Send pixels as they are, not scaled.",
    )


def _files(tensor: Tensor) -> list[bytes | ImageError]:
    count = tensor.shape[0]
    if isinstance(tensor.data, memoryview):
        return _elements(tensor.data, count, tensor)
    data = tensor.data
    if data and isinstance(data[0], list):
        data = _flat(data, tensor.shape, tensor)
    _check_count(len(data), count, tensor)
    for index, text in enumerate(data):
        if not isinstance(text, str):
            raise InvalidTensorError(
                f"Element {index} of input {tensor.name!r} is {shown(text)}; in JSON, {FILES}"
                " takes base64 of image files.",
                hint="Encode each file as base64, or send binary tensor data.",
            )
    return [decode_base64(text) for text in data]


def _elements(data: memoryview, count: int, tensor: Tensor) -> list[bytes | ImageError]:
    found, at = list[bytes | ImageError](), 0
    while at < len(data) and len(found) < count:
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(data[at:start], "little")
        if at > len(data):
            raise InvalidTensorError(
                f"Element {len(found)} of input {tensor.name!r} goes beyond the end of its"
                f" {len(data)} bytes.",
                hint=_BYTES_HINT,
            )
        found.append(bytes(data[start:at]))
    if at != len(data) or len(found) != count:
        more = "more" if at != len(data) else str(len(found))
        raise InvalidTensorError(
            f"Input {tensor.name!r} has shape {list(tensor.shape)}, but {more} elements in its"
            f" {len(data)} bytes.",
            hint=_BYTES_HINT,
        )
    return found


def _check_count(found: int, wanted: int, tensor: Tensor) -> None:
    if found != wanted:
        raise InvalidTensorError(
            f"The 'data' of input {tensor.name!r} has {found} elements, but its shape"
            f" {list(tensor.shape)} takes {wanted}.",
            hint="Make data and shape agree.",
        )
