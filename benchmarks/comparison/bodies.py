"""What is sent, in each server's own way, and how its answers are read."""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_BOUNDARY = "adaresnet-benchmark-boundary"
# The V2 protocol states how long the JSON before the binary data is; padded, one header fits all.
_V2_JSON_BYTES = 256


@dataclass(frozen=True)
class Images:
    """The pictures of one request: encoded, and as the pixels that they decode to."""

    files: tuple[bytes, ...]
    pixels: Pixels


@dataclass(frozen=True)
class Answer:
    """First class of an image and its probability."""

    class_id: int
    probability: float


@dataclass(frozen=True)
class Encoding:
    """A way of sending images.

    Attributes:
        name: Names the folder of body files.
        headers: Of a request.
        encode: Writes its body.
    """

    name: str
    headers: dict[str, str]
    encode: Callable[[Images], bytes]


def _form(parts: Sequence[tuple[str, str, str, bytes]]) -> bytes:
    """Multipart form: field name, file name, media type and content of each part."""
    chunks = []
    for field, filename, kind, content in parts:
        disposition = f'form-data; name="{field}"; filename="{filename}"'
        head = (
            f"--{_BOUNDARY}\r\nContent-Disposition: {disposition}\r\nContent-Type: {kind}\r\n\r\n"
        )
        chunks += [head.encode(), content, b"\r\n"]
    return b"".join([*chunks, f"--{_BOUNDARY}--\r\n".encode()])


def _only_file(images: Images) -> bytes:
    (file,) = images.files
    return file


def _same_field(images: Images) -> bytes:
    return _form(
        [("images", f"{i}.jpg", "image/jpeg", data) for i, data in enumerate(images.files)]
    )


def _own_fields(images: Images) -> bytes:
    return _form(
        [(f"image{i}", f"{i}.jpg", "image/jpeg", data) for i, data in enumerate(images.files)]
    )


def _npy(images: Images) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, images.pixels)
    return buffer.getvalue()


def _npy_form(images: Images) -> bytes:
    return _form([("images", "images.npy", "application/x-npy", _npy(images))])


def _v2_binary(name: str, datatype: str, shape: Sequence[int], data: bytes) -> bytes:
    tensor = {
        "name": name,
        "datatype": datatype,
        "shape": list(shape),
        "parameters": {"binary_data_size": len(data)},
    }
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    return header.ljust(_V2_JSON_BYTES).encode() + data


def _v2_binary_files(images: Images) -> bytes:
    data = b"".join(len(file).to_bytes(4, "little") + file for file in images.files)
    return _v2_binary("pictures", "BYTES", (len(images.files), 1), data)


def _v2_binary_pixels(images: Images) -> bytes:
    return _v2_binary("pixels", "UINT8", images.pixels.shape, images.pixels.tobytes())


def _v2_json(name: str, datatype: str, shape: Sequence[int], kind: str, data: object) -> bytes:
    tensor = {
        "name": name,
        "datatype": datatype,
        "shape": list(shape),
        "parameters": {"content_type": kind},
        "data": data,
    }
    return json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()


def _v2_json_files(images: Images) -> bytes:
    texts = [base64.b64encode(file).decode() for file in images.files]
    return _v2_json("pictures", "BYTES", (len(texts), 1), "base64", texts)


def _v2_json_pixels(images: Images) -> bytes:
    data = images.pixels.reshape(-1).tolist()
    return _v2_json("pixels", "UINT8", images.pixels.shape, "np", data)


_FORM = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
_V2_BINARY = {
    "Content-Type": "application/octet-stream",
    "Inference-Header-Content-Length": str(_V2_JSON_BYTES),
}
_V2_JSON = {"Content-Type": "application/json"}

RAW = Encoding("raw", {"Content-Type": "image/jpeg"}, _only_file)
FORM = Encoding("form", _FORM, _same_field)
FORM_OWN_FIELDS = Encoding("form-own-fields", _FORM, _own_fields)
NPY = Encoding("npy", {"Content-Type": "application/x-npy"}, _npy)
NPY_FORM = Encoding("npy-form", _FORM, _npy_form)
V2_BINARY_FILES = Encoding("v2-binary-files", _V2_BINARY, _v2_binary_files)
V2_BINARY_PIXELS = Encoding("v2-binary-pixels", _V2_BINARY, _v2_binary_pixels)
V2_JSON_FILES = Encoding("v2-json-files", _V2_JSON, _v2_json_files)
V2_JSON_PIXELS = Encoding("v2-json-pixels", _V2_JSON, _v2_json_pixels)


def read_ours(content: bytes) -> list[Answer]:
    """Our own service's answer."""
    first = [result["predictions"][0] for result in json.loads(content)["results"]]
    return [Answer(int(each["class_id"]), each["probability"]) for each in first]


def read_list(content: bytes) -> list[Answer]:
    """A plain list, as the servers written for this comparison answer."""
    return [Answer(int(each["class_id"]), each["probability"]) for each in json.loads(content)]


def read_v2_json(content: bytes) -> list[Answer]:
    """Outputs ``class`` and ``probability`` of the V2 protocol in JSON."""
    data = {each["name"]: each["data"] for each in json.loads(content)["outputs"]}
    return _paired(data["class"], data["probability"])


def read_v2_binary(content: bytes) -> list[Answer]:
    """The same with binary data behind the JSON."""
    outputs, start = json.JSONDecoder().raw_decode(content.decode("latin-1"))
    data: dict[str, list[float]] = {}
    types = {"INT32": np.dtype("<i4"), "FP32": np.dtype("<f4")}
    for output in outputs["outputs"]:
        size = output["parameters"]["binary_data_size"]
        values = np.frombuffer(content[start : start + size], types[output["datatype"]])
        data[output["name"]] = values.tolist()
        start += size
    return _paired(data["class"], data["probability"])


def _paired(classes: Sequence[float], probabilities: Sequence[float]) -> list[Answer]:
    pairs = zip(classes, probabilities, strict=True)
    return list(itertools.starmap(Answer, ((int(index), value) for index, value in pairs)))
