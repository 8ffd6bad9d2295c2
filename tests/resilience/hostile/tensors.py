"""The Open Inference Protocol: JSON that lies, binary tensors that don't fit, compression."""

from __future__ import annotations

import gzip
import itertools
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from tests.resilience.hostile.crafted import many_zeros
from tests.resilience.hostile.documents import BROKEN_JSON
from tests.resilience.hostile.inputs import BROKEN, HARMLESS, TOO_LARGE, Input, head, post, raw
from tests.resilience.hostile.routes import PATHS
from tests.resilience.traffic import MODEL
from tests.system.flood.pictures import PX

INFER = f"/v2/models/{MODEL}/infer"
_LENGTH = b"Inference-Header-Content-Length: "
_KIND = "tensor"
_SHAPE = [1, PX, PX, 3]
_BYTES = PX * PX * 3
_NOWHERE = frozenset({404})


def tensor(**changes: Any) -> dict[str, Any]:
    """An input with some of it changed; None leaves it out."""
    whole = {"name": "images", "shape": _SHAPE, "datatype": "UINT8", "data": [7] * _BYTES}
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


def asking(inputs: Any, **more: Any) -> bytes:
    """A request as JSON."""
    return json.dumps({"inputs": inputs, **more}).encode()


def binary(
    data: bytes, *, shape: list[int] | None = None, size: object = None, **changes: Any
) -> tuple[bytes, bytes]:
    """A request with its tensor behind the JSON: the header, and the body."""
    stated = len(data) if size is None else size
    text = asking([
        tensor(data=None, shape=shape, parameters={"binary_data_size": stated}, **changes)
    ])  # fmt: skip
    return _LENGTH + b"%d" % len(text), text + data


def tensors() -> Iterator[Input]:
    """All of them."""
    return itertools.chain(_json(), _inputs(), _values(), _binary(), _compressed(), _addresses())


def _case(
    name: str,
    why: str,
    body: bytes,
    *headers: bytes,
    expected: frozenset[int] = BROKEN,
    target: str = INFER,
) -> Input:
    return post(_KIND, name, why, body, "", expected, target=target, headers=headers)


def _json() -> Iterator[Input]:
    for name, body in BROKEN_JSON.items():
        yield _case(f"tensor: {name}", "no inference request", body)
    for name, body in {
        "a list": b"[]",
        "null": b"null",
        "an empty object": b"{}",
        "inputs that are null": asking(None),
        "inputs that are an object": asking({}),
        "no input": asking([]),
        "inputs that are numbers": asking([1, 2]),
        "inputs in inputs": asking([[tensor()]]),
        "an id that is a number": asking([tensor()], id=5),
        "an id that is a list": asking([tensor()], id=["a"]),
        "parameters that are a list": asking([tensor()], parameters=[]),
        "a parameter that is an object": asking([tensor()], parameters={"a": {}}),
        "a reserved parameter": asking([tensor()], parameters={"triton_enable": True}),
        "a timeout below 0": asking([tensor()], parameters={"timeout": -1}),
        "a timeout of 10**30": asking([tensor()], parameters={"timeout": 10**30}),
        "a timeout that is a text": asking([tensor()], parameters={"timeout": "5"}),
        "a timeout that is a truth": asking([tensor()], parameters={"timeout": True}),
        "binary output that is a text": asking([tensor()], parameters={"binary_data_output": "y"}),
        "outputs that are a text": asking([tensor()], outputs="logits"),
        "an unknown output": asking([tensor()], outputs=[{"name": "nothing"}]),
        "an output twice": asking([tensor()], outputs=[{"name": "logits"}] * 2),
        "an output without a name": asking([tensor()], outputs=[{}]),
        "-1 classes": asking(
            [tensor()], outputs=[{"name": "logits", "parameters": {"classification": -1}}]
        ),
        "true classes": asking(
            [tensor()], outputs=[{"name": "logits", "parameters": {"classification": True}}]
        ),
        "an output in shared memory": asking(
            [tensor()],
            outputs=[{"name": "logits", "parameters": {"shared_memory_region": "a"}}],
        ),
    }.items():
        yield _case(f"tensor: {name}", "the protocol says otherwise", body)
    for number, name in ((10**30, "10**30 classes"), (2**62, "2**62 classes")):
        asked = [{"name": "logits", "parameters": {"classification": number}}]
        body = asking([tensor()], outputs=asked)
        why = "all that the model has are given, or the number is refused"
        yield _case(f"tensor: {name}", why, body, expected=HARMLESS | BROKEN)


def _inputs() -> Iterator[Input]:
    for name, inputs in {
        "an unknown input": [tensor(name="other")],
        "an input twice": [tensor(), tensor()],
        "an input more": [tensor(), tensor(name="other")],
        "an input without a name": [tensor(name=None)],
        "a name that is a number": [tensor(name=5)],
        "a name of 1 MB": [tensor(name="a" * 10**6)],
        "no datatype": [tensor(datatype=None)],
        "an unknown datatype": [tensor(datatype="UINT9")],
        "another datatype": [tensor(datatype="FP32")],
        "FP16 in JSON": [tensor(datatype="FP16")],
        "no shape": [tensor(shape=None)],
        "a shape that is a text": [tensor(shape="1")],
        "a shape below 0": [tensor(shape=[-1, PX, PX, 3])],
        "a shape of fractions": [tensor(shape=[1.0, PX, PX, 3])],
        "a shape of truths": [tensor(shape=[True, PX, PX, 3])],
        "a shape of 10,000 sizes": [tensor(shape=[1] * 10_000)],
        "a shape of 10**30": [tensor(shape=[10**30, PX, PX, 3])],
        "a shape of another size": [tensor(shape=[1, PX + 1, PX, 3])],
        "a shape of 0 images": [tensor(shape=[0, PX, PX, 3], data=[])],
        "a shape of 3 dimensions": [tensor(shape=[PX, PX, 3])],
        "neither data nor binary data": [tensor(data=None)],
        "data and binary data": [tensor(parameters={"binary_data_size": 5})],
        "data that is a text": [tensor(data="abc")],
        "data that is a number": [tensor(data=5)],
        "shared memory": [tensor(data=None, parameters={"shared_memory_region": "a"})],
    }.items():
        yield _case(f"tensor: {name}", "the model takes other inputs", asking(inputs))
    many = asking([tensor(shape=[2**62, PX, PX, 3])])
    yield _case("tensor: 2**62 images", "more than max_images", many, expected=TOO_LARGE)


def _values() -> Iterator[Input]:
    odds: tuple[Any, ...] = (256, -1, 1.5, "7", True, None, [7], 10**30, 1e300)
    for odd in odds:
        body = asking([tensor(data=[7] * (_BYTES - 1) + [odd])])
        yield _case(f"tensor: an element {odd!r}", "UINT8 takes 0 to 255", body)
    nan = asking([tensor()]).replace(b"[7, 7", b"[NaN, 7")
    yield _case("tensor: an element NaN", "UINT8 takes 0 to 255", nan)
    for name, data in {
        "too few elements": [7] * (_BYTES - 1),
        "too many elements": [7] * (_BYTES + 1),
        "no element": [],
        "lists of other lengths": [[[[7] * 3] * PX] * (PX - 1) + [[[7] * 3] * (PX + 1)]],
        "lists that end early": [[[7] * 3 * PX] * PX],
        "lists that are mixed": [[[[7] * 3] * PX] * (PX - 1) + [7]],
    }.items():
        yield _case(f"tensor: {name}", "data and shape must agree", asking([tensor(data=data)]))
    many = b'{"inputs": [' + b"[]," * 9_000_000 + b"[]]}"
    yield _case("tensor: 9 million lists", "too much to hold", many, expected=TOO_LARGE)
    files = tensor(shape=[2], datatype="BYTES", data=["no base64!", "QUJD"])
    yield _case("tensor: files that are none", "no image as base64", asking([files]))
    number = tensor(shape=[1], datatype="BYTES", data=[5])
    yield _case("tensor: a file that is a number", "no image as base64", asking([number]))


def _binary() -> Iterator[Input]:
    data = bytes(_BYTES)
    right_header, right_body = binary(data)
    why = "PROTOCOL: the sizes of JSON, tensors and body must agree"
    for name, text in {
        "beyond the body": b"99999999",
        "below 0": b"-5",
        "with a sign": b"+5",
        "with an underscore": b"1_0",
        "with a fraction": b"5.0",
        "of nothing": b"",
        "of 5,000 digits": b"9" * 5000,
        "that cuts the JSON": b"20",
        "in base 16": b"0x10",
    }.items():
        yield _case(f"tensor: JSON length {name}", why, right_body, _LENGTH + text)
    yield _case("tensor: JSON length twice", why, right_body, right_header, right_header)
    yield _case("tensor: JSON length of all", why, right_body, _LENGTH + b"%d" % len(right_body))
    for name, (header, body) in {
        "too few bytes": (right_header, right_body[:-1]),
        "too many bytes": (right_header, right_body + b"\0"),
        "no bytes": (right_header, right_body[:-_BYTES]),
        "another size than the shape's": binary(data, size=_BYTES - 1),
        "a size below 0": binary(data, size=-_BYTES),
        "a size that is a text": binary(data, size=str(_BYTES)),
        "a size that is a truth": binary(data, size=True),
        "a size of 2**62": binary(data, size=2**62, shape=[2**50, PX, PX, 3]),
        "no image": binary(b"", shape=[0, PX, PX, 3]),
        "files whose lengths go beyond the end": binary(
            struct.pack("<I", 2**31) + b"abc", shape=[1], datatype="BYTES"
        ),
        "files with half of a length": binary(b"\1\0", shape=[1], datatype="BYTES"),
        "fewer files than the shape says": binary(
            struct.pack("<I", 3) + b"abc", shape=[5], datatype="BYTES"
        ),
        "a million empty files": binary(bytes(4 * 10**6), shape=[10**6], datatype="BYTES"),
    }.items():
        expected = TOO_LARGE if name == "a million empty files" else BROKEN
        yield _case(f"tensor: binary with {name}", why, body, header, expected=expected)
    for size in (0, 1, _BYTES - 1, _BYTES + 1):
        yield _case(
            f"tensor: a raw request of {size} bytes",
            "it is one image of the model's size",
            bytes(size),
            _LENGTH + b"0",
        )


def _compressed() -> Iterator[Input]:
    for coding, body in {
        "gzip": many_zeros(1024, 31),
        "deflate": many_zeros(1024),
    }.items():
        header = b"Content-Encoding: " + coding.encode()
        yield _case(
            f"tensor: 1 GiB in {coding}", "no more than max_buffer_bytes are inflated", body,
            header, expected=TOO_LARGE,
        )  # fmt: skip
        for name, bad in {
            "cut short": body[: len(body) // 2][:1000],
            "with something behind it": zlib.compress(b"{}") + b"more",
            "that is none": b"no stream",
            "of nothing": b"",
        }.items():
            yield _case(f"tensor: {coding} {name}", "the stream is broken", bad, header)
    twice = gzip.compress(gzip.compress(bytes(2**26)))
    for name, header in {
        "br": b"Content-Encoding: br",
        "gzip twice": b"Content-Encoding: gzip, gzip",
        "nonsense": b"Content-Encoding: nonsense",
    }.items():
        yield _case(
            f"tensor: coding {name}", "only gzip and deflate", twice, header,
            expected=frozenset({415}),
        )  # fmt: skip


def _addresses() -> Iterator[Input]:
    body = asking([tensor()])
    for name, text in PATHS.items():
        yield _case(
            f"tensor: the model {name}", "there is no such model", body,
            target=f"/v2/models/{text}/infer", expected=_NOWHERE,
        )  # fmt: skip
    for version in ("0", "99", "-1", "1.0", "abc", "01", "%31%00", "9" * 5000, "latest"):
        yield _case(
            f"tensor: version {version[:10]}", "there is no such version", body,
            target=f"/v2/models/{MODEL}/versions/{version}/infer", expected=_NOWHERE,
        )  # fmt: skip
    for target, expected in {
        "/v2/nothing": _NOWHERE,
        f"/v2/models/{MODEL}/nothing": _NOWHERE,
        f"/v2/models/{MODEL}": frozenset({405}),
        "/v2/systemsharedmemory/region/a/register": frozenset({501}),
        "/v2/logging": frozenset({501}),
        f"/v2/repository/models/{MODEL}/unload": frozenset({403}),
        f"/v2/repository/models/{MODEL}/load": frozenset({403}),
        "/v2/repository/models/..%2f..%2fetc/load": _NOWHERE | {403},
    }.items():
        yield _case(
            f"tensor: POST {target}", "no such route, method or right", b"{}",
            target=target, expected=expected,
        )  # fmt: skip
    for name, body in {
        "a list": b"[]", "a text for ready": b'{"ready": "yes"}', "junk": b"{"
    }.items():  # fmt: skip
        yield _case(
            f"tensor: the index asked with {name}", "an object or nothing", body,
            target="/v2/repository/index",
        )  # fmt: skip
    yield raw(
        _KIND,
        "tensor: 1 TB of it",
        "refused before it comes",
        head(INFER, b"Content-Length: %d" % 10**12),
        expected=TOO_LARGE,
    )
    yield raw(
        _KIND,
        "tensor: 70 MiB in chunks",
        "more than is held at once",
        head(INFER, b"Transfer-Encoding: chunked"),
        *(b"100000\r\n" + b"[" * 2**20 + b"\r\n" for _ in range(70)),
        expected=TOO_LARGE,
    )
