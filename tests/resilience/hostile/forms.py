"""Multipart forms: without boundaries, with too many parts, with headers that lie."""

from __future__ import annotations

from collections.abc import Iterator

from tests.resilience.hostile.crafted import good_files
from tests.resilience.hostile.inputs import (
    BAD_FILE,
    BROKEN,
    CLASSIFY,
    HARMLESS,
    TOO_LARGE,
    Input,
    head,
    post,
    raw,
)

_FORM = "multipart/form-data; boundary=xyz"
_FILE = b'Content-Disposition: form-data; name="f"; filename="f.png"\r\n'
_KIND = "form"


def part(content: bytes, headers: bytes = _FILE) -> bytes:
    """One part, with the boundary before it."""
    return b"--xyz\r\n" + headers + b"\r\n" + content + b"\r\n"


END = b"--xyz--\r\n"


def forms() -> Iterator[Input]:
    """All of them."""
    yield from _boundaries()
    yield from _parts()
    yield from _many()


def _boundaries() -> Iterator[Input]:
    good = part(good_files()["png"]) + END
    for name, content_type in {
        "no boundary": "multipart/form-data",
        "an empty boundary": "multipart/form-data; boundary=",
        "an empty boundary in quotes": 'multipart/form-data; boundary=""',
        "another boundary": "multipart/form-data; boundary=other",
        "a boundary of 100 KB": "multipart/form-data; boundary=" + "x" * 50_000,
        "a boundary that is part of the right one": "multipart/form-data; boundary=xy",
        "a boundary with a space": "multipart/form-data; boundary=xyz abc",
        "a boundary outside of ASCII": "multipart/form-data; boundary=\xff\xfe",
        "a quote that stays open": 'multipart/form-data; boundary="xyz',
    }.items():
        expected = BROKEN | HARMLESS if name == "a quote that stays open" else BROKEN
        yield post(_KIND, f"a form with {name}", "RFC 2046, 5.1.1", good, content_type, expected)
    yield post(
        _KIND,
        "a form with two boundaries in its header",
        "ambiguous: it is either understood or refused, the same always",
        good,
        "multipart/form-data; boundary=abc; boundary=xyz",
        BROKEN | HARMLESS,
    )
    for name, content_type in {
        "multipart/mixed": "multipart/mixed; boundary=xyz",
        "multipart/byteranges": "multipart/byteranges; boundary=xyz",
        "message/rfc822": "message/rfc822",
    }.items():
        why = "only multipart/form-data"
        yield post(_KIND, name, why, good, content_type, frozenset({415}))


def _parts() -> Iterator[Input]:
    picture = good_files()["png"]
    good = part(picture)
    nested = b"multipart/mixed; boundary=abc"
    inner = b"--abc\r\nContent-Disposition: file\r\n\r\n" + picture + b"\r\n--abc--"
    disposition = b'Content-Disposition: form-data; name="f"'
    for name, body, expected in (
        ("nothing", b"", BROKEN),
        ("empty lines", b"\r\n" * 1000, BROKEN),
        ("no part", END, BROKEN),
        ("text before its boundary", b"hello\r\n" + good + END, BROKEN),
        ("no last boundary", good, BROKEN),
        ("half of a boundary at its end", good + b"--xy", BROKEN),
        ("a part that is cut in its headers", b"--xyz\r\nContent-Dis", BROKEN),
        ("a part without headers", part(picture, b"") + END, BROKEN),
        ("a part without a name", part(
            picture, b"Content-Disposition: form-data\r\n"
        ) + END, BROKEN),
        ("a header without a colon", part(picture, b"nonsense\r\n") + END, BROKEN),
        ("a header with a space in its name", part(picture, b"A B: c\r\n" + _FILE) + END, BROKEN),
        ("NUL in a header", part(picture, b"A\0: c\r\n" + _FILE) + END, BROKEN),
        ("LF as line ends", good.replace(b"\r\n", b"\n") + END, BROKEN),
        ("a text field", part(b"hello", disposition + b"\r\n") + END, BROKEN),
        ("1,000 headers in a part", part(picture, b"A: b\r\n" * 1000 + _FILE) + END, BROKEN),
        ("a header of 1 MB", part(picture, b"A: " + b"b" * 10**6 + b"\r\n" + _FILE) + END, BROKEN),
        ("a file name of 1 MB", part(
            picture, disposition + b'; filename="' + b"x" * 10**6 + b'"\r\n'
        ) + END, BROKEN),
        ("base64 as its encoding", part(
            picture, _FILE + b"Content-Transfer-Encoding: base64\r\n"
        ) + END, BROKEN),
        ("a form in a form", part(
            inner, _FILE + b"Content-Type: " + nested + b"\r\n"
        ) + END, BAD_FILE),
        ("an empty file", part(b"") + END, BAD_FILE),
        ("a bad file", part(b"no picture") + END, BAD_FILE),
        ("a bad file among good ones", good + part(b"no picture") + good + END, BAD_FILE),
        ("a name that is a path", part(
            picture, disposition + b'; filename="../../../../etc/passwd"\r\n'
        ) + END, HARMLESS),
        ("a name with NUL", part(
            picture, disposition + b'; filename="a\\0.png"\r\n'
        ) + END, HARMLESS),
        ("a name in a strange encoding", part(
            picture, disposition + b"; filename*=utf-7''+AGEA-\r\n"
        ) + END, BROKEN | HARMLESS),
        ("1 MB behind its end", good + END + b"x" * 10**6, HARMLESS | BROKEN),
        ("another form behind its end", good + END + good + END, HARMLESS | BROKEN),
    ):  # fmt: skip
        yield post(_KIND, f"a form with {name}", "RFC 7578 and docs/api.md", body, _FORM, expected)


def _many() -> Iterator[Input]:
    many = part(b"x") * 100_001 + END
    why = "more than max_images, or than can be looked at in time"
    yield post(_KIND, "a form of 100,001 parts", why, many, _FORM, TOO_LARGE | {504})
    bad = part(b"x") * 100_000 + END
    why = "every one is named, if there is time"
    yield post(_KIND, "a form of 100,000 bad files", why, bad, _FORM, BAD_FILE | {504})
    fields = part(b"x", b'Content-Disposition: form-data; name="f"\r\n') * 100_000 + END
    yield post(_KIND, "a form of 100,000 text fields", "none is a file", fields, _FORM)
    yield post(
        _KIND,
        "a form whose parts never begin",
        "nothing but boundaries",
        b"--xyz\r\n" * 200_000,
        _FORM,
    )
    yield post(_KIND, "a form of 70 MiB of line ends", "no boundary", b"\r\n" * (2**20 * 5), _FORM)
    yield raw(
        _KIND,
        "a form with a file of 70 MiB",
        "more than max_buffer_bytes",
        head(CLASSIFY, b"Content-Type: " + _FORM.encode(), b"Transfer-Encoding: chunked"),
        b"%x\r\n%b\r\n" % (len(_FILE) + 9, b"--xyz\r\n" + _FILE + b"\r\n"),
        *(b"100000\r\n" + bytes(2**20) + b"\r\n" for _ in range(70)),
        expected=TOO_LARGE,
    )
