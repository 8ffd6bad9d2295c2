"""KServe's V1 protocol: instances that are no images."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from typing import Any

from tests.resilience.hostile.crafted import good_files
from tests.resilience.hostile.documents import BROKEN_JSON
from tests.resilience.hostile.inputs import BAD_FILE, BROKEN, TOO_LARGE, Input, head, post, raw
from tests.resilience.hostile.routes import PATHS
from tests.resilience.traffic import MODEL

PREDICT = f"/v1/models/{MODEL}:predict"
_KIND = "instances"
_NOWHERE = frozenset({404})


def instances() -> Iterator[Input]:
    """All of them."""
    return itertools.chain(_documents(), _bad(), _large(), _addresses())


def _case(
    name: str,
    why: str,
    body: bytes,
    expected: frozenset[int] = BROKEN,
    *,
    target: str = PREDICT,
) -> Input:
    return post(_KIND, f"instances: {name}", why, body, "application/json", expected, target=target)


def _asking(*given: Any) -> bytes:
    return json.dumps({"instances": given}).encode()


def _documents() -> Iterator[Input]:
    for name, body in BROKEN_JSON.items():
        yield _case(name, "no JSON with instances", body)
    for name, body in {
        "null": b"null",
        "a list": b"[]",
        "an empty object": b"{}",
        "no instance": b'{"instances": []}',
        "instances that are null": b'{"instances": null}',
        "instances that are an object": b'{"instances": {}}',
        "instances that are a text": b'{"instances": "abc"}',
        "inputs in columns": b'{"inputs": [[1]]}',
    }.items():
        yield _case(name, "no list of instances", body)


def _bad() -> Iterator[Input]:
    picture = base64.b64encode(good_files()["png"]).decode()
    for name, instance in {
        "a number": 5,
        "null": None,
        "a truth": True,
        "a text": picture,
        "an empty list": [],
        "an empty object": {},
        "base64 that is none": {"b64": "no base64!"},
        "base64 of nothing": {"b64": ""},
        "base64 that is a number": {"b64": 5},
        "base64 that is a list": {"b64": [picture]},
        "an address": {"url": "http://169.254.169.254/"},
        "two keys": {"b64": picture, "more": 1},
        "two names": {"a": {"b64": picture}, "c": {"b64": picture}},
        "100 objects in each other": _deep(100),
        "a row": [1, 2, 3],
        "4 channels": [[[1, 2, 3, 4]]],
        "4 dimensions": [[[[1, 2, 3]]]],
        "rows of other lengths": [[1, 2], [3]],
        "rows that are empty": [[], []],
        "256": [[0, 256]],
        "-1": [[0, -1]],
        "a fraction": [[0, 1.5]],
        "truths": [[True, False]],
        "texts": [["1", "2"]],
        "nulls": [[None, None]],
        "10**30": [[10**30]],
        "numbers and lists": [[1, [2]]],
    }.items():
        why = "no image file and no pixels"
        yield _case(f"{name} as one", why, _asking(instance), BAD_FILE)
        yield _case(
            f"{name}, behind a good one",
            "it is named by its index",
            _asking({"b64": picture}, instance),
            BAD_FILE,
        )


def _deep(times: int) -> Any:
    value: Any = 1
    for _ in range(times):
        value = {"b64": value}
    return value


def _large() -> Iterator[Input]:
    many = b'{"instances": [' + b",".join([b'{"b64": ""}'] * 100_001) + b"]}"
    yield _case("100,001 instances", "more than max_images", many, TOO_LARGE)
    numbers = b'{"instances": [[[' + b"1," * 9_000_000 + b"1]]]}"
    yield _case("9 million numbers", "too much to hold", numbers, TOO_LARGE)
    text = b'{"instances": [{"b64": "' + b"A" * (70 * 2**20) + b'"}]}'
    yield _case("70 MiB", "more than max_buffer_bytes", text, TOO_LARGE)
    yield raw(
        _KIND,
        "instances: 70 MiB in chunks",
        "more than max_buffer_bytes",
        head(PREDICT, b"Transfer-Encoding: chunked"),
        *(b"100000\r\n" + b"[" * 2**20 + b"\r\n" for _ in range(70)),
        expected=TOO_LARGE,
    )
    bombs = base64.b64encode(good_files()["png"][:60]).decode()
    broken = _asking(*({"b64": bombs} for _ in range(20_000)))
    yield _case("20,000 bad files", "every one is named", broken, BAD_FILE)


def _addresses() -> Iterator[Input]:
    body = _asking({"b64": ""})
    for name, text in PATHS.items():
        yield _case(
            f"the model {name}", "there is no such model", body, _NOWHERE,
            target=f"/v1/models/{text}:predict",
        )  # fmt: skip
    for name, target in {
        "another verb": f"/v1/models/{MODEL}:explain",
        "a verb in capitals": f"/v1/models/{MODEL}:PREDICT",
        "no verb": f"/v1/models/{MODEL}:",
        "two verbs": f"/v1/models/{MODEL}:predict:predict",
        "version 99": f"/v1/models/{MODEL}/versions/99:predict",
        "version abc": f"/v1/models/{MODEL}/versions/abc:predict",
        "version -1": f"/v1/models/{MODEL}/versions/-1:predict",
    }.items():
        yield _case(name, "no such route or version", body, _NOWHERE | {405}, target=target)
