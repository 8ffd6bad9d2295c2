"""The instances of a KServe V1 (or TensorFlow Serving) request: images as base64 or as numbers.

Source: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import orjson

from service.api.base64_images import decode_base64
from service.api.limits import BodyLimits, check_json
from service.engine.errors import (
    EmptyRequestError,
    ImageError,
    ImageTooLargeError,
    MalformedRequestError,
)
from service.engine.images import MixedImages, Pixels

HINT = (
    'Send {"instances": [...]}, each {"b64": "<base64 of an image file>"} or pixels as nested lists'
    " of integers from 0 to 255, [H][W][3] or grey [H][W]."
)
_INSTANCE_HINT = HINT.replace('Send {"instances": [...]}, each', "Send")


def parse_instances(body: bytes, limits: BodyLimits) -> MixedImages:
    """Read the images of a request.

    Returns:
        In order: an image file, or pixels uint8 [H, W, 3]; an error in the place of an instance
        that is neither.

    Raises:
        EmptyRequestError: There is no instance.
        MalformedRequestError: The body is no JSON, or has no list of instances.
        RequestTooLargeError: There are too many instances, or too many numbers in them.
    """
    if not body:
        raise EmptyRequestError("The body is empty.", hint=HINT)
    check_json(body, 'Send images as {"b64": "..."}, or fewer in one request.')
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequestError(f"The body is not JSON: {error}.", hint=HINT) from None
    instances = _instances_of(document)
    limits.check_images(len(instances))
    return [_image(instance, index, limits) for index, instance in enumerate(instances)]


def _instances_of(document: Any) -> list[Any]:
    if not isinstance(document, dict):
        raise MalformedRequestError(f"The body is {_kind(document)}, not a JSON object.", hint=HINT)
    if "inputs" in document:
        raise MalformedRequestError(
            "The body has 'inputs', the columnar form of TensorFlow Serving, which is not read.",
            hint=HINT,
        )
    instances = document.get("instances")
    if not isinstance(instances, list):
        found = f"is {_kind(instances)}, not a list" if "instances" in document else "is missing"
        raise MalformedRequestError(f"'instances' {found}.", hint=HINT)
    if not instances:
        raise EmptyRequestError("'instances' is an empty list.", hint=HINT)
    return instances


def _image(instance: Any, index: int, limits: BodyLimits) -> bytes | ImageError | Pixels:
    if isinstance(instance, list):
        return _pixels(instance, index, limits)
    # TensorFlow Serving's clients name the input: {"image_bytes": {"b64": ...}}.
    found = instance
    if isinstance(found, dict) and len(found) == 1 and "b64" not in found:
        (found,) = found.values()
    if not isinstance(found, dict):
        return _wrong(index, f"is {_kind(instance)}")
    if found.keys() != {"b64"}:
        keys = ", ".join(sorted(found))
        return _wrong(index, f"is an object with {keys[:100] or 'nothing in it'}")
    text = found["b64"]
    if not isinstance(text, str):
        return _wrong(index, f"has {_kind(text)} as 'b64', not a text")
    image = decode_base64(text)
    if isinstance(image, ImageError):
        return type(image)(f"instances[{index}]: {image.detail}", hint=image.hint)
    return image


def _pixels(rows: list[Any], index: int, limits: BodyLimits) -> ImageError | Pixels:
    """Make an image of nested lists; everything per number is done in C."""
    shape, values = [len(rows)], rows
    while (kinds := set(map(type, values))) == {list}:
        sizes = set(map(len, values))
        if len(sizes) > 1:
            return _wrong(
                index, f"has lists of {min(sizes)} and of {max(sizes)} at depth {len(shape)}"
            )
        shape += sizes
        if len(shape) > 3:
            return _wrong(index, "is nested more than three deep")
        values = list(itertools.chain.from_iterable(values))
    if not values:
        return _wrong(index, f"is empty, of shape {shape}")
    if kinds != {int}:
        odd = next(value for value in values if type(value) is not int)
        return _wrong(index, f"has {_kind(odd)} among its numbers")
    if len(shape) == 1 or shape[2:] not in ([], [3]):
        return _wrong(index, f"has shape {shape}")
    if shape[0] * shape[1] > limits.image_pixels:
        return ImageTooLargeError(
            f"instances[{index}] has {shape[1]} x {shape[0]} pixels; the limit is"
            f" {limits.image_pixels}.",
            hint="Send a smaller image, or raise max_image_pixels.",
        )
    try:
        data = bytes(values)
    except ValueError:
        odd = next(value for value in values if not 0 <= value <= 255)
        return _wrong(index, f"has the number {odd}")
    pixels = np.frombuffer(data, np.uint8).reshape(shape)
    return pixels if len(shape) == 3 else np.repeat(pixels[..., None], 3, axis=2)


def _wrong(index: int, what: str) -> ImageError:
    return ImageError(f"instances[{index}] {what}.", hint=_INSTANCE_HINT)


def _kind(value: Any) -> str:
    """What a value of JSON is, for people."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {value[:20]!r}"
        case list():
            return "a list"
    return "an object"
