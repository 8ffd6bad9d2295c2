"""Strategies that take something good and make something else of it, knowing its structure."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.resilience.hostile.arrays import described, npy, saved
from tests.resilience.hostile.crafted import PNG_MAGIC, good_files
from tests.resilience.hostile.forms import END, part
from tests.resilience.hostile.inputs import CLASSIFY, chunks, head
from tests.resilience.hostile.instances import PREDICT
from tests.resilience.hostile.tensors import INFER, asking, binary, tensor
from tests.system.flood.pictures import PX

_ODD_INTEGERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)
_MOST_BYTES = 200_000
_LINE_END = b"\r\n"


@st.composite
def changed(draw: st.DrawFn, data: bytes, most: int = 6) -> bytes:
    """Some bytes changed, left out, repeated, put in, or made an odd number."""
    for _ in range(draw(st.integers(1, most))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        length = draw(st.integers(1, 64))
        match draw(st.sampled_from(("flip", "number", "cut", "repeat", "insert", "end"))):
            case "flip":
                bit = 1 << draw(st.integers(0, 7))
                data = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
            case "number":
                form = draw(st.sampled_from((">I", "<I", ">H", "<H", "B")))
                size = struct.calcsize(form)
                number = draw(st.sampled_from(_ODD_INTEGERS)) % 256**size
                data = data[:at] + struct.pack(form, number) + data[at + size :]
            case "cut":
                data = data[:at] + data[at + length :]
            case "repeat":
                times = draw(st.integers(1, 200))
                data = data[:at] + data[at : at + length] * times + data[at + length :]
            case "insert":
                data = data[:at] + draw(st.binary(max_size=64)) + data[at:]
            case "end":
                data = data[:at]
        data = data[:_MOST_BYTES]
    return data


@st.composite
def pngs(draw: st.DrawFn) -> bytes:
    """Chunks changed, in another order, repeated; their checksums are right all the same."""
    data, at, found = good_files()[draw(st.sampled_from(("png", "png palette", "apng")))], 8, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    order = draw(st.permutations(range(len(found)))) if draw(st.booleans()) else range(len(found))
    names = (b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"zTXt", b"iCCP", b"eXIf", b"acTL", b"abCd")
    result = [PNG_MAGIC]
    for index in order:
        name, body = found[index]
        if draw(st.integers(0, 3)) == 0:
            body = draw(changed(body, 2)) if body else draw(st.binary(max_size=30))
        if draw(st.integers(0, 9)) == 0:
            name = draw(st.sampled_from(names))
        made = struct.pack(">I", len(body)) + name + body
        made += struct.pack(">I", zlib.crc32(name + body))
        result.append(made * draw(st.sampled_from((1, 1, 1, 1, 2, 50))))
    return b"".join(result)


@st.composite
def tiffs(draw: st.DrawFn) -> bytes:
    """Entries of the directory changed: tags, types, counts and values."""
    kind = draw(st.sampled_from(("tiff", "tiff lzw", "tiff deflate", "tiff jpeg", "tiff packbits")))
    data = bytearray(good_files()[kind])
    (at,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, at)
    for _ in range(draw(st.integers(1, 5))):
        entry = at + 2 + 12 * draw(st.integers(0, entries - 1))
        offset, form = draw(st.sampled_from(((0, "<H"), (2, "<H"), (4, "<I"), (8, "<I"))))
        number = draw(st.sampled_from(_ODD_INTEGERS) | st.integers(0, 300) | st.integers(0, 2**32))
        struct.pack_into(form, data, entry + offset, number % 256 ** struct.calcsize(form))
    return bytes(data)


@st.composite
def jpegs(draw: st.DrawFn) -> bytes:
    """Segments changed, repeated, left out; their lengths are right, or nearly."""
    name = draw(st.sampled_from(("jpeg", "jpeg progressive", "jpeg grey", "jpeg cmyk")))
    data, at, result = good_files()[name], 2, [b"\xff\xd8"]
    while data[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, at + 2)
        marker, body = data[at + 1], data[at + 4 : at + 2 + length]
        if draw(st.integers(0, 3)) == 0:
            body = draw(changed(body, 2))
        if draw(st.integers(0, 9)) == 0:
            marker = draw(st.integers(0xC0, 0xFE))
        stated = (len(body) + 2 + draw(st.sampled_from((0, 0, 0, 1, -1)))) % 2**16
        times = draw(st.sampled_from((1, 1, 1, 1, 0, 2, 300)))
        result.append((bytes((0xFF, marker)) + struct.pack(">H", stated) + body) * times)
        at += 2 + length
    return b"".join(result)[:_MOST_BYTES] + draw(st.just(data[at:]) | changed(data[at:]))


def pictures() -> st.SearchStrategy[bytes]:
    """Files of every format."""
    kinds = st.sampled_from(sorted(good_files()))
    any_file = kinds.flatmap(lambda kind: changed(good_files()[kind]))
    return st.one_of(any_file, pngs(), tiffs(), jpegs())


def json_values() -> st.SearchStrategy[Any]:
    """Any JSON."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=5)
            | st.dictionaries(
                st.sampled_from(("inputs", "instances", "images", "b64", "data", "name", "x")),
                inner,
            )
        ),
        max_leaves=20,
    )


@st.composite
def inferences(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A request of the inference protocol: the header with the length of its JSON, and a body."""
    whole = tensor()
    for key in draw(st.lists(st.sampled_from((*whole, "parameters")), max_size=3)):
        whole[key] = draw(json_values() | st.sampled_from(("UINT8", "BYTES", [1, PX, PX, 3], [-1])))
    more = draw(st.dictionaries(st.sampled_from(("outputs", "parameters", "id")), json_values()))
    if draw(st.booleans()):
        return b"X: y", json.dumps({"inputs": [whole], **more}).encode()
    name = draw(st.sampled_from(("images", "other")))
    header, body = binary(bytes(PX * PX * 3), name=name)
    lengths = (b"", b"0", b"-1", b"+5", b"1_0", b"20", b"99999", b"9" * 30)
    odd = header.partition(b":")[0] + b": " + draw(st.sampled_from(lengths))
    return draw(st.sampled_from((header, odd))), draw(st.just(body) | changed(body))


@st.composite
def arrays(draw: st.DrawFn) -> bytes:
    """An array with sizes, datatype or bytes that were changed."""
    sizes = draw(st.lists(st.sampled_from((0, 1, 2, 3, 8, -1, 2**31, 2**62)), max_size=5))
    whole = st.just(saved(np.zeros((2, 8, 8, 3), np.uint8))).flatmap(changed)
    shape = f"({''.join(f'{size}, ' for size in sizes)})"
    descr = draw(st.sampled_from(("'|u1'", "'<f4'", "'|O'", "'|S9'", "[]", "None", "{}")))
    made = npy(described(shape, descr), draw(st.binary(max_size=400)))
    return draw(st.just(made) | whole)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A whole request with lines of its head changed, and its body too."""
    picture = good_files()["ppm text"]
    text = base64.b64encode(picture).decode()
    line = b'"' + text.encode() + b'"\n'
    target, kind, body = draw(
        st.sampled_from((
            (CLASSIFY, "image/x-portable-pixmap", picture),
            (CLASSIFY, "multipart/form-data; boundary=xyz", part(picture) + END),
            (CLASSIFY, "application/json", json.dumps({"images": [text]}).encode()),
            (CLASSIFY, "application/x-ndjson", line * 3),
            (CLASSIFY, "application/x-npy", saved(np.zeros((2, 8, 8, 3), np.uint8))),
            (PREDICT, "application/json", json.dumps({"instances": [{"b64": text}]}).encode()),
            (INFER, "application/json", asking([tensor()])),
        ))
    )  # fmt: skip
    if draw(st.booleans()):
        body = draw(changed(body))
    headers = [b"Content-Type: " + kind.encode()]
    if draw(st.booleans()):
        headers.append(b"Content-Length: %d" % len(body))
    else:
        size = draw(st.sampled_from((1, 7, 1000)))
        body = chunks(*(body[at : at + size] for at in range(0, len(body), size)))
        headers.append(b"Transfer-Encoding: chunked")
        if draw(st.integers(0, 3)) == 0:
            body = draw(changed(body, 3))
    lines = head(target, *headers).split(_LINE_END)[:-2]
    odd = (
        b"Accept: application/x-ndjson", b"Expect: 100-continue", b"Content-Encoding: gzip",
        b"Connection: close", b"Connection: Upgrade", b"Upgrade: h2c", b"X-Request-Timeout: 5ms",
        b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Inference-Header-Content-Length: 9",
    )  # fmt: skip
    for _ in range(draw(st.integers(0, 3))):
        index = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(("change", "leave-out", "twice", "more"))):
            case "change":
                lines[index] = draw(changed(lines[index], 1))
            case "leave-out" if len(lines) > 1:
                del lines[index]
            case "twice":
                lines.insert(index, lines[index])
            case _:
                lines.insert(index + 1, draw(st.sampled_from(odd)))
    return _LINE_END.join([*lines, b"", b""]) + body
