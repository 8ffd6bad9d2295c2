"""``.npy`` bodies: headers that lie, or that are no headers, and pixels that don't fit them."""

from __future__ import annotations

import io
import itertools
import pickle
import struct
import zipfile
from collections.abc import Iterator

import numpy as np

from tests.resilience.hostile.inputs import (
    BAD_FILE,
    BROKEN,
    CLASSIFY,
    TOO_LARGE,
    Input,
    chunks,
    head,
    post,
    raw,
)

_NPY = "application/x-npy"
_KIND = "array"
_IN_CHUNKS = head(CLASSIFY, b"Content-Type: application/x-npy", b"Transfer-Encoding: chunked")


class _Shell:
    """What runs a command where somebody unpickles it."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("__import__('os').abort()",)


def saved(array: np.ndarray) -> bytes:
    """As ``numpy.save`` writes it."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npy(header: bytes, data: bytes = b"", *, version: bytes = b"\1\0") -> bytes:
    """An array with a header of one's own; of version 2, if that is said."""
    length = struct.pack("<H" if version[0] == 1 else "<I", len(header))
    return b"\x93NUMPY" + version + length + header + data


def described(shape: str, descr: str = "'|u1'", fortran: str = "False") -> bytes:
    """A header as text."""
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}\n"
    return text.encode()


def arrays() -> Iterator[Input]:
    """All of them."""
    return itertools.chain(_headers(), _dtypes(), _shapes(), _data(), _many_at_once())


def _headers() -> Iterator[Input]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("arr_0.npy", saved(np.zeros((2, 2, 3), np.uint8)))
    nested = b"(" * 5000 + b")" * 5000
    for name, body in {
        "a pickle": pickle.dumps(_Shell()),
        "an .npz": archive.getvalue(),
        "a PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "text": b"1,2,3\n4,5,6\n",
        "magic and nothing": b"\x93NUMPY",
        "magic and a version": b"\x93NUMPY\1\0",
        "version 0": npy(described("(2, 2, 3)"), bytes(12), version=b"\0\0"),
        "version 9": npy(described("(2, 2, 3)"), bytes(12), version=b"\x09\0"),
        "version 255": b"\x93NUMPY\xff\xff" + bytes(100),
        "a header of length 0": npy(b""),
        "a header beyond the end": b"\x93NUMPY\1\0\xff\xff{",
        "a header of 4 GiB": b"\x93NUMPY\2\0\xff\xff\xff\xff{",
        "a header of 60 KiB": npy(described("(2, 2, 3)") + b" " * 60_000, bytes(12)),
        "a header of 2 MiB": npy(described("(2, 2, 3)") + b" " * 2**21, bytes(12), version=b"\2\0"),
        "a header of random bytes": npy(bytes(range(128, 256)), bytes(12)),
        "a header that is a call": npy(b"__import__('os').abort()\n"),
        "a header that is nested": npy(nested),
        "a header that is an addition": npy(described("(" + "1+" * 1000 + "1, 2, 3)")),
        "a header with NUL": npy(described("(2, 2, 3)").replace(b"'shape'", b"'sha\0pe'")),
        "a header without a shape": npy(b"{'descr': '|u1', 'fortran_order': False}\n"),
        "a header with more keys": npy(
            b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 3), 'more': 1}\n", bytes(12)
        ),
        "a header that is a list": npy(b"['|u1', False, (2, 2, 3)]\n", bytes(12)),
        "an order that is a number": npy(described("(2, 2, 3)", fortran="7"), bytes(12)),
    }.items():
        yield post(_KIND, name, "no array as numpy.save writes it", body, _NPY, BAD_FILE)


def _dtypes() -> Iterator[Input]:
    data = np.zeros((2, 2, 3))
    for dtype in ("float64", "float32", "int8", "int64", "bool", "complex64", "S1", ">u2"):
        yield post(
            _KIND, f"datatype {dtype}", "only uint8", saved(data.astype(dtype)), _NPY, BAD_FILE
        )
    for name, descr in {
        "objects": "'|O'",
        "a record": "[('a', '|u1'), ('b', '|u1')]",
        "a nested record": "[('a', " * 50 + "'|u1'" + ")]" * 50,
        "void": "'|V9'",
        "times": "'<M8[s]'",
        "an unknown type": "'|zz'",
        "a type of 2 GiB": "'|S2147483647'",
        "a type that is a number": "5",
        "an array of a type": "('|u1', (1000000, 1000000))",
    }.items():
        body = npy(described("(2, 2, 3)", descr), bytes(12))
        yield post(_KIND, f"datatype: {name}", "only uint8", body, _NPY, BAD_FILE)


def _shapes() -> Iterator[Input]:
    huge = str(2**62)
    for name, shape, expected in (
        ("of 10**30 images", f"({10**30}, 32, 32, 3)", BAD_FILE),
        ("whose product wraps around to 12", f"({huge}, {huge}, {huge}, 3)", BAD_FILE),
        ("of 4,000,000,000 bytes", "(4000000000, 1, 1, 3)", BAD_FILE),
        ("of -1 images", "(-1, 2, 2, 3)", BAD_FILE),
        ("of two negative sizes", "(-2, -2, 3)", BAD_FILE),
        ("of a fraction", "(2.0, 2, 3)", BAD_FILE),
        ("of a truth", "(True, 2, 2, 3)", BAD_FILE),
        ("of a text", "('2', 2, 3)", BAD_FILE),
        ("of no dimension", "()", BAD_FILE),
        ("of one dimension", "(12,)", BAD_FILE),
        ("of 5 dimensions", "(1, 1, 2, 2, 3)", BAD_FILE),
        ("of 100 dimensions", "(" + "1, " * 100 + ")", BAD_FILE),
        ("of 4 channels", "(1, 1, 3, 4)", BAD_FILE),
        ("of height 0", "(1, 0, 4, 3)", BAD_FILE),
        ("of nested sizes", "((2, 2), 3)", BAD_FILE),
        ("that is a number", "12", BAD_FILE),
        ("of a number of 5,000 digits", f"({'9' * 5000}, 2, 3)", BAD_FILE),
    ):
        body = npy(described(shape), bytes(12))
        yield post(_KIND, f"a shape {name}", "[N, H, W, 3] and as many bytes", body, _NPY, expected)
    empty = npy(described("(0, 32, 32, 3)"))
    yield post(_KIND, "no image", "there is nothing to answer", empty, _NPY, BROKEN)
    for name, header in {
        "an image of 147 MB": described("(1, 7000, 7000, 3)"),
        "images of 10**18 pixels": described("(1, 1000000000, 1000000000, 3)"),
    }.items():
        yield raw(
            _KIND,
            f"{name} in chunks",
            "more pixels or bytes than are held at once, known from the header",
            _IN_CHUNKS,
            chunks(npy(header), bytes(1000)),
            expected=BAD_FILE | TOO_LARGE,
        )


def _data() -> Iterator[Input]:
    good = saved(np.zeros((2, 8, 8, 3), np.uint8))
    for name, body in {
        "one byte too few": good[:-1],
        "no byte of data": good[:128],
        "one byte too many": good + b"\0",
        "another array behind it": good * 2,
        "a pickle behind it": good + pickle.dumps(_Shell()),
    }.items():
        yield post(_KIND, f"an array with {name}", "the shape says how many", body, _NPY, BAD_FILE)
        yield raw(
            _KIND,
            f"an array in chunks with {name}",
            "the shape says how many",
            _IN_CHUNKS,
            chunks(*(body[at : at + 50] for at in range(0, len(body), 50))),
            expected=BAD_FILE,
        )


def _many_at_once() -> Iterator[Input]:
    body = npy(described("(200000, 1, 1, 3)"), bytes(600_000))
    yield post(_KIND, "200,000 images", "more than max_images", body, _NPY, TOO_LARGE)
    fortran = npy(described("(90000, 32, 32, 3)", fortran="True"))
    yield raw(
        _KIND,
        "276 MB in Fortran order",
        "it would have to be held whole; refused before the pixels come",
        _IN_CHUNKS,
        chunks(fortran, bytes(1000)),
        expected=BAD_FILE,
    )
    yield post(
        _KIND,
        "an array as one of the images in JSON's place",
        "the content type says JSON",
        saved(np.zeros((2, 8, 8, 3), np.uint8)),
        "application/json",
    )
    yield post("array", "an empty body", "no array", b"", _NPY)
