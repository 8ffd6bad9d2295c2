"""JSON documents, lines of JSON, and base64 that is none."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator

import numpy as np

from tests.resilience.hostile.arrays import saved
from tests.resilience.hostile.crafted import good_files
from tests.resilience.hostile.inputs import (
    BAD_FILE,
    BROKEN,
    CLASSIFY,
    HARMLESS,
    TOO_LARGE,
    Input,
    chunks,
    head,
    post,
    raw,
)

JSON = "application/json"
NDJSON = "application/x-ndjson"
_HUGE = b"9" * 100_000
# Documents that no reader of JSON may take, or may stumble over.
BROKEN_JSON: dict[str, bytes] = {
    "nothing": b"",
    "a brace": b"{",
    "NUL": b"\0",
    "not UTF-8": b'{"images": ["\xff\xfe"]}',
    "UTF-16": '{"images": []}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"images": []}',
    "single quotes": b"{'images': []}",
    "a trailing comma": b'{"images": ["a",]}',
    "a comment": b'{"images": [] /* none */}',
    "a document behind another": b'{"images": []}{"images": []}',
    "a lone surrogate": b'{"images": ["\\ud800"]',
    "an unfinished escape": b'{"images": ["\\u12"]}',
    "a control character in a text": b'{"images": ["a\nb"]}',
    "100,000 lists in each other": b"[" * 100_000 + b"]" * 100_000,
    "100,000 objects in each other": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a million lists that are never closed": b"[" * 1_000_000,
    "a number of 100,000 digits": b'{"images": ' + _HUGE + b"}",
    "an exponent of 100,000 digits": b'{"images": 1e' + _HUGE + b"}",
    "Infinity": b'{"images": Infinity}',
    "JavaScript": b"fetch('/v1/classify')",
    "XML": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
}
_NO_BASE64 = {
    "no base64": "not base64!",
    "half of a group": "QUJ",
    "padding inside": "QU=JD",
    "only padding": "====",
    "the alphabet for addresses": "_-_-",
    "letters outside of ASCII": "QUJDé",
    "NUL": "QU\0D",
    "a data URL that is not base64": "data:image/png,abc",
    "a data URL without data": "data:image/png;base64",
    "an address": "https://169.254.169.254/latest/meta-data/",
    "a file's address": "file:///etc/passwd",
    "a path": "../../etc/passwd",
    "an empty text": "",
    "a text": base64.b64encode(b"no picture").decode(),
}


def documents() -> Iterator[Input]:
    """All of them."""
    return itertools.chain(_json(), _base64(), _lines())


def _json() -> Iterator[Input]:
    picture = base64.b64encode(good_files()["png"])
    for name, body in BROKEN_JSON.items():
        yield post("JSON", f"JSON: {name}", "no JSON of the right form", body, JSON)
    for name, body in {
        "null": b"null",
        "a number": b"5",
        "a text": b'"images"',
        "a list": b"[]",
        "no images": b"{}",
        "an empty list": b'{"images": []}',
        "images that are null": b'{"images": null}',
        "images that are a text": b'{"images": "' + picture + b'"}',
        "images that are an object": b'{"images": {"0": "' + picture + b'"}}',
        "an image that is a number": b'{"images": [5]}',
        "an image that is null": b'{"images": ["' + picture + b'", null]}',
        "an image that is a list": b'{"images": [["' + picture + b'"]]}',
        "an unknown key": b'{"images": ["' + picture + b'"], "model": "x"}',
        "keys that are code": b'{"__proto__": {}, "constructor": {}, "images": ["a"]}',
        "100,000 unknown keys": b"{%b}" % b",".join(b'"k%d":1' % n for n in range(100_000)),
    }.items():
        yield post("JSON", f"JSON: {name}", 'not {"images": [...]}', body, JSON)
    twice = b'{"images": ["x"], "images": ["' + picture + b'"]}'
    yield post(
        "JSON", "JSON: images twice", "the last one counts, as everywhere", twice, JSON, HARMLESS
    )
    many = b'{"images": [' + b",".join([b'""'] * 100_001) + b"]}"
    yield post("JSON", "JSON: 100,001 images", "more than max_images", many, JSON, TOO_LARGE)
    large = b'{"images": ["' + b"A" * (70 * 2**20) + b'"]}'
    yield post("JSON", "JSON: 70 MiB", "more than max_buffer_bytes", large, JSON, TOO_LARGE)
    yield raw(
        "JSON",
        "JSON: 70 MiB in chunks",
        "more than max_buffer_bytes",
        head(CLASSIFY, b"Content-Type: application/json", b"Transfer-Encoding: chunked"),
        *(b"100000\r\n" + b"[" * 2**20 + b"\r\n" for _ in range(70)),
        expected=TOO_LARGE,
    )


def _base64() -> Iterator[Input]:
    for name, text in _NO_BASE64.items():
        body = json.dumps({"images": [text]}).encode()
        yield post("base64", f"base64: {name}", "no image file as base64", body, JSON, BAD_FILE)
    array = base64.b64encode(saved(np.zeros((2, 8, 8, 3), np.uint8))).decode()
    body = json.dumps({"images": [array]}).encode()
    yield post("base64", "base64: an array", "a list of image files", body, JSON, BAD_FILE)


def _lines() -> Iterator[Input]:
    picture = b'"' + base64.b64encode(good_files()["png"]) + b'"'
    array = base64.b64encode(saved(np.zeros((2, 8, 8, 3), np.uint8))[:-1])
    for name, line in {
        **{f"a line of JSON: {name}": text for name, text in BROKEN_JSON.items() if text.strip()},
        **{
            f"a line of base64: {name}": json.dumps(text).encode()
            for name, text in _NO_BASE64.items()
        },
        "a line: null": b"null",
        "a line: an empty object": b"{}",
        "a line: two keys": b'{"image": %b, "b64": %b}' % (picture, picture),
        "a line: another key": b'{"url": "http://localhost/"}',
        "a line: a list": b"[%b]" % picture,
        "a line: an array that is cut short": b'"%b"' % array,
    }.items():
        if b"\n" in line:
            continue
        yield post("lines", name, "the one line is no image", line + b"\n", NDJSON, BAD_FILE)
        if name.startswith("a line: "):
            both = picture + b"\n" + line + b"\n"
            yield post("lines", f"{name}, behind a good one", "a bad image", both, NDJSON, BAD_FILE)
    for name, body in {
        "no line": b"",
        "empty lines": b"\n" * 100_000,
        "lines of spaces": b"  \r\n" * 1000,
    }.items():
        yield post("lines", name, "there is nothing to answer", body, NDJSON, BROKEN)
    why = "more than max_images, or than can be looked at in time"
    many = b'""\n' * 100_001
    yield post("lines", "100,001 lines", why, many, NDJSON, TOO_LARGE | {504})
    yield raw(
        "lines",
        "a line that never ends",
        "more than max_buffer_bytes",
        head(CLASSIFY, b"Content-Type: application/x-ndjson", b"Transfer-Encoding: chunked"),
        b'1\r\n"\r\n',
        *(b"100000\r\n" + b"A" * 2**20 + b"\r\n" for _ in range(70)),
        expected=TOO_LARGE,
    )
    accept = (b"Accept: application/x-ndjson",)
    yield post(
        "lines",
        "bad lines, and lines wanted",
        "each has its own error in the answer",
        b"null\n{}\n" * 1000,
        NDJSON,
        HARMLESS,
        headers=accept,
    )
    yield raw(
        "lines",
        "lines in chunks of one byte",
        "a line may come in any pieces",
        head(CLASSIFY, b"Content-Type: application/x-ndjson", b"Transfer-Encoding: chunked"),
        chunks(*(b"%c" % byte for byte in picture[:500])),
        expected=BAD_FILE,
    )
