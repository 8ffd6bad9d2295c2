"""Requests and replies of the Open Inference Protocol, as clients in any language make them."""

from __future__ import annotations

import base64
import io
import json
import math
import socket
from collections.abc import Iterable
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import Server

JSON_BYTES = "Inference-Header-Content-Length"
INFER = "/v2/models/cifar10/infer"
SHAPE = (32, 32, 3)
OUTPUTS = ["logits", "probabilities"]
_DTYPES = {"FP32": "<f4"}

Pixels = NDArray[np.uint8]


def pictures(count: int, seed: int = 1) -> Pixels:
    """Random pixels, uint8 [count, 32, 32, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), np.uint8)


def tensor(pixels: Pixels, *, nested: bool = False, **changes: Any) -> dict[str, Any]:
    """An input with its data as JSON."""
    data = pixels.tolist() if nested else pixels.ravel().tolist()
    made = {"name": "images", "shape": list(pixels.shape), "datatype": "UINT8", "data": data}
    return {**made, **changes}


def binary_tensor(pixels: Pixels, **changes: Any) -> dict[str, Any]:
    """An input with its data behind the JSON."""
    made = tensor(pixels[:0], shape=list(pixels.shape))
    del made["data"]
    return {**made, "parameters": {"binary_data_size": pixels.size}, **changes}


def pack(document: dict[str, Any], *blobs: bytes) -> tuple[bytes, dict[str, str]]:
    """A body of JSON and binary tensors, and its header."""
    text = json.dumps(document, separators=(",", ":")).encode()
    return b"".join((text, *blobs)), {JSON_BYTES: str(len(text))}


def binary(pixels: Pixels, **more: Any) -> tuple[bytes, dict[str, str]]:
    """A request as Triton's own client makes it by default."""
    document = {"inputs": [binary_tensor(pixels)], "parameters": {"binary_data_output": True}}
    return pack({**document, **more}, pixels.tobytes())


def post(client: httpx.Client, document: Any, path: str = INFER) -> httpx.Response:
    return client.post(path, content=json.dumps(document).encode())


def infer(client: httpx.Client, pixels: Pixels, **more: Any) -> dict[str, NDArray[Any]]:
    """The outputs for some pictures, by JSON."""
    return outputs(post(client, {"inputs": [tensor(pixels)], **more}))


def split(answer: httpx.Response) -> tuple[dict[str, Any], bytes]:
    """The JSON of a reply, and the bytes behind it."""
    assert answer.status_code == 200, answer.text
    length = answer.headers.get(JSON_BYTES)
    if length is None:
        assert answer.headers["content-type"] == "application/json"
        return answer.json(), b""
    assert answer.headers["content-type"] == "application/octet-stream"
    content = answer.content
    return json.loads(content[: int(length)]), content[int(length) :]


def outputs(answer: httpx.Response) -> dict[str, NDArray[Any]]:
    """Every output as an array of its shape; texts as an array of objects."""
    document, rest = split(answer)
    found = {}
    for output in document["outputs"]:
        shape = output["shape"]
        if "data" in output:
            dtype = np.float32 if output["datatype"] == "FP32" else object
            values = np.array(output["data"], dtype)
        else:
            size = output["parameters"]["binary_data_size"]
            blob, rest = rest[:size], rest[size:]
            if output["datatype"] == "BYTES":
                values = np.array([text.decode() for text in texts(blob)], object)
            else:
                values = np.frombuffer(blob, _DTYPES[output["datatype"]])
        assert values.size == math.prod(shape)
        found[output["name"]] = values.reshape(shape)
    assert not rest
    return found


def texts(blob: bytes) -> list[bytes]:
    """The elements of a BYTES tensor."""
    found = []
    while blob:
        size = int.from_bytes(blob[:4], "little")
        found.append(blob[4 : 4 + size])
        assert len(found[-1]) == size
        blob = blob[4 + size :]
    return found


def encoded(pixels: Pixels, kind: str = "PNG") -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def bytes_tensor(elements: Iterable[bytes]) -> bytes:
    """Write a BYTES tensor."""
    return b"".join(len(element).to_bytes(4, "little") + element for element in elements)


def files(elements: list[bytes], **changes: Any) -> dict[str, Any]:
    """An input of image files, as JSON."""
    data = [base64.b64encode(element).decode() for element in elements]
    made = {"name": "images", "shape": [len(elements)], "datatype": "BYTES", "data": data}
    return {**made, **changes}


def is_refused(answer: httpx.Response, status: int, *words: str) -> bool:
    """An error of the protocol's form, whose text has these words."""
    assert answer.status_code == status, (answer.status_code, answer.text[:500])
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert list(document) == ["error"]
    assert "content-encoding" not in answer.headers
    for word in words:
        assert word.lower() in document["error"].lower(), (word, document["error"])
    return True


def send(server: Server, head: str, body: bytes = b"") -> socket.socket:
    """Send bytes over a connection of its own, and don't wait for the answer."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(head.replace("\n", "\r\n").encode() + body)
    return connection


def send_inference(server: Server, pixels: Pixels, **more: Any) -> socket.socket:
    """Ask for an inference, and don't wait for the reply."""
    body, headers = binary(pixels, **more)
    head = f"POST {INFER} HTTP/1.1\nHost: x\nContent-Length: {len(body)}\n"
    return send(server, f"{head}{JSON_BYTES}: {headers[JSON_BYTES]}\n\n", body)
