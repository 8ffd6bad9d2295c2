"""Read the images out of a request's body, whatever form it has."""

from __future__ import annotations

import base64
import binascii
import io
import math
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from service.api.schemas import ImagesBody
from service.engine.errors import (
    EmptyRequestError,
    ImageDecodeError,
    ImageError,
    InvalidTensorError,
    MalformedRequestError,
    RequestTooLargeError,
    UnsupportedMediaError,
)
from service.engine.predictor import EncodedImages, Pixels

NPY_MAGIC = b"\x93NUMPY"

_KINDS_HINT = (
    "Send an image (image/* or application/octet-stream), multipart/form-data with files,"
    ' application/json {"images": ["<base64>"]}, or application/x-npy uint8.'
)
# curl --data-binary sends this type unless told otherwise; the content decides.
_RAW_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded")
_NPY_HINT = "Send uint8 [N, H, W, 3], [H, W, 3] or grey [N, H, W], as numpy.save writes it."

_MAX_DIMENSIONS = 32  # what every numpy can hold; four are of use


@dataclass(frozen=True)
class BodyLimits:
    """Images of one request, and pixels (width times height) of one image."""

    images: int
    image_pixels: int


async def read_images(request: Request, limits: BodyLimits) -> EncodedImages | Pixels:
    """Read a request's images by its content type.

    Returns:
        Encoded images, in order, with an error in the place of one whose base64 is broken; or
        plain RGB pixels, uint8 [N, H, W, 3].

    Raises:
        InputError: The body is empty, too large, of another type, or not what its type says.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaError(
            f"Content encoding {encoding!r} is not supported.", hint="Send the body uncompressed."
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _read_multipart(request, limits.images)
    if kind not in (*_RAW_TYPES, "application/json", "application/x-npy") and not kind.startswith(
        "image/"
    ):
        raise UnsupportedMediaError(f"Content type {kind!r} is not supported.", hint=_KINDS_HINT)
    body = await request.body()
    if not body:
        raise EmptyRequestError("The body is empty.", hint=_KINDS_HINT)
    if kind == "application/json":
        return await run_in_threadpool(_parse_json, body, limits.images)
    if kind == "application/x-npy" or body.startswith(NPY_MAGIC):
        return await run_in_threadpool(_parse_npy, body, limits)
    return [body]


async def _read_multipart(request: Request, max_images: int) -> EncodedImages:
    _, options = parse_options_header(request.headers["content-type"])
    body = await request.body()
    # The parser takes a form that ends anywhere; what was cut off must not go unnoticed.
    if b"--" + options.get(b"boundary", b"") + b"--" not in body:
        if not body:
            raise EmptyRequestError("The body is empty.", hint=_KINDS_HINT)
        raise MalformedRequestError(
            "The multipart body has no closing boundary: it was cut short.",
            hint="Let your HTTP library write the body and its boundary.",
        )
    try:
        async with request.form(max_files=max_images, max_fields=max_images) as form:
            images = [await _read_part(name, part) for name, part in form.multi_items()]
    # A charset that text can't be decoded with is a UnicodeError; the rest comes as HTTPException.
    except (HTTPException, UnicodeError, LookupError) as error:
        reason = error.detail if isinstance(error, HTTPException) else "wrong charset"
        if "Too many" in reason:
            raise _too_many("more", max_images) from None
        raise MalformedRequestError(
            f"The multipart body can't be read: {reason}.",
            hint="Let your HTTP library write the body and its boundary.",
        ) from None
    if not images:
        raise EmptyRequestError("The form has no file.", hint=_KINDS_HINT)
    return images


async def _read_part(name: str, part: UploadFile | str) -> bytes:
    if isinstance(part, str):
        raise MalformedRequestError(
            f"Form field {name!r} is text, not a file.",
            hint="Send images as files (with a filename) and parameters in the query.",
        )
    return await part.read()


def _parse_json(body: bytes, max_images: int) -> EncodedImages:
    try:
        texts = ImagesBody.model_validate_json(body).images
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise MalformedRequestError(
            f"The JSON body is not right at {where}: {first['msg']}.",
            hint='Send {"images": ["<base64 or data URL>", ...]}.',
        ) from None
    if not texts:
        raise EmptyRequestError("'images' is an empty list.", hint=_KINDS_HINT)
    if len(texts) > max_images:
        raise _too_many(str(len(texts)), max_images)
    return [_decode_base64(text) for text in texts]


def _decode_base64(text: str) -> bytes | ImageError:
    if text[:5].lower() == "data:":
        header, _, text = text.partition(",")
        if not header.lower().endswith(";base64"):
            return ImageDecodeError(
                "The data URL is not base64.", hint="Write data:image/png;base64,..."
            )
    try:
        # Line breaks, as many encoders write them, carry no data.
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return ImageDecodeError(
            "The text is not valid base64.", hint="Encode the image file's bytes as base64."
        )


def _parse_npy(body: bytes, limits: BodyLimits) -> Pixels:
    array = _read_npy(body)
    if array.ndim == 3 and array.shape[2] == 3:
        array = array[np.newaxis]
    elif array.ndim == 3:
        array = np.repeat(array[..., np.newaxis], 3, axis=3)
    if array.ndim != 4 or array.shape[3] != 3:
        raise InvalidTensorError(
            f"The array has shape {list(array.shape)}.",
            hint=_NPY_HINT,
        )
    count, height, width, _ = array.shape
    if not count:
        raise EmptyRequestError("The array holds no image.", hint=_NPY_HINT)
    if count > limits.images:
        raise _too_many(str(count), limits.images)
    if not height or not width or height * width > limits.image_pixels:
        raise InvalidTensorError(
            f"Images of {height} x {width} pixels can't be used.",
            hint=f"Send at least 1 and at most {limits.image_pixels} pixels an image.",
        )
    return array


def _read_npy(body: bytes) -> Pixels:
    """Read the .npy format without numpy.load: no pickle, no zip, no trust in the stated shape."""
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran_order, dtype = read_header(stream)
    except Exception as error:  # the header is a Python literal; parsing it can fail in many ways
        raise InvalidTensorError(
            f"The body is not a .npy array ({type(error).__name__}).", hint=_NPY_HINT
        ) from None
    if dtype != np.uint8:
        raise InvalidTensorError(f"The array's datatype is {dtype}, not uint8.", hint=_NPY_HINT)
    data = memoryview(body)[stream.tell() :]
    # In Python's own integers: a product of hostile numbers must not wrap around.
    sizes_are_plain = all(type(size) is int and 0 <= size < 2**31 for size in shape)
    if not sizes_are_plain or len(shape) > _MAX_DIMENSIONS or math.prod(shape) != len(data):
        raise InvalidTensorError(
            f"The {len(data)} bytes of data are not an array of shape {shape!s:.100}.",
            hint=_NPY_HINT,
        )
    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran_order else "C")


def _too_many(found: str, limit: int) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"The request has {found} images; the limit is {limit}.",
        hint="Split it over several requests, or raise max_images.",
    )
