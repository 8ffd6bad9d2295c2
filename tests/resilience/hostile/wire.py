"""What is no proper HTTP/1.1: heads, framing, smuggling, other protocols."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Iterator
from dataclasses import replace

from tests.resilience.hostile.crafted import good_files
from tests.resilience.hostile.inputs import (
    BAD_FILE,
    BROKEN,
    CLASSIFY,
    HARMLESS,
    HOST,
    HUNG_UP,
    TOO_LARGE,
    EndOfInput,
    Input,
    Pause,
    Step,
    chunks,
    head,
    raw,
)

LIVE = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
_CHUNKED = b"Transfer-Encoding: chunked"
_TOO_LONG_HEAD = frozenset({431})
_GET = LIVE[:-2]


def wire() -> Iterator[Input]:
    """All of them."""
    return itertools.chain(
        _heads(), _lengths(), _chunks(), _smuggling(), _protocols(), _ends(), _many()
    )


def _case(
    kind: str,
    why: str,
    cases: dict[str, bytes | tuple[Step, ...]],
    expected: frozenset[int] = BROKEN,
    answers: int = 1,
) -> Iterator[Input]:
    for name, script in cases.items():
        steps = (script,) if isinstance(script, bytes) else script
        yield raw(kind, name, why, *steps, expected=expected, answers=answers)


def _heads() -> Iterator[Input]:
    yield from _case("head", "RFC 9112, 2 to 5", {
        "a space in a header's name": _GET + b"A B: c\r\n\r\n",
        "a space behind a header's name": _GET + b"A : c\r\n\r\n",
        "a header without a name": _GET + b": c\r\n\r\n",
        "a header without a colon": _GET + b"A\r\n\r\n",
        "a control character in a name": _GET + b"A\x01: c\r\n\r\n",
        "letters outside of ASCII in a name": _GET + b"\xc3\xa9: c\r\n\r\n",
        "NUL in a name": _GET + b"A\0B: c\r\n\r\n",
        "escapes for a terminal": _GET + b"X-Request-ID: \x1b[2J\r\n\r\n",
        "NUL in a value": _GET + b"A: b\0c\r\n\r\n",
        "a bare CR": _GET + b"A: b\rc\r\n\r\n",
        "bare LF": LIVE.replace(b"\r\n", b"\n"),
        "a folded line": _GET + b"A: b\r\n c\r\n\r\n",
        "a first header that is folded": b"GET /healthz HTTP/1.1\r\n A: b\r\n" + HOST + b"\r\n",
        "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
        "two hosts": _GET + HOST + b"\r\n",
        "NUL in the address": LIVE.replace(b"healthz", b"a\0b"),
        "a space in the address": LIVE.replace(b"healthz", b"a b"),
        "no address": LIVE.replace(b"/healthz", b""),
        "an address without a path": LIVE.replace(b"/healthz", b"http://"),
        "an unknown method": LIVE.replace(b"GET", b"BREW"),
        "a method in lower case": LIVE.replace(b"GET", b"get"),
        "a method of 60,000 letters": LIVE.replace(b"GET", b"G" * 60_000),
        "version 3.0": LIVE.replace(b"1.1", b"3.0"),
        "version 1.": LIVE.replace(b"1.1", b"1."),
        "version 1.1.1": LIVE.replace(b"1.1", b"1.1.1"),
        "a tunnel": b"CONNECT example.org:443 HTTP/1.1\r\n" + HOST + b"\r\n",
        "random bytes": bytes(range(256)) * 4,
        "NUL bytes": bytes(1000),
    })  # fmt: skip
    yield from _case("head", "more than max_head_bytes or max_headers", {
        "101 headers": _GET + b"A: b\r\n" * 101 + b"\r\n",
        "10,000 headers": _GET + b"A: b\r\n" * 10_000 + b"\r\n",
        "a header of 100 KB": _GET + b"A: " + b"b" * 100_000 + b"\r\n\r\n",
        "a header's name of 100 KB": _GET + b"A" * 100_000 + b": b\r\n\r\n",
        "an address of 100 KB": LIVE.replace(b"healthz", b"a" * 100_000),
        "a query of 100 KB": LIVE.replace(b"healthz", b"v1/models?" + b"a=b&" * 25_000),
        "a cookie of 100 KB": _GET + b"Cookie: " + b"a=b; " * 20_000 + b"\r\n\r\n",
    }, _TOO_LONG_HEAD)  # fmt: skip
    yield from _case("head", "more than max_head_bytes; it may be too late to say so", {
        "a head of 10 MB": _GET + b"A: " + b"b" * 10**7,
        "an address of 10 MB": b"GET /" + b"a" * 10**7,
    }, _TOO_LONG_HEAD | {HUNG_UP})  # fmt: skip


def _lengths() -> Iterator[Input]:
    post = head()[:-2]
    yield from _case("length", "RFC 9112, 6.2 and 6.3", {
        "two lengths": post + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "the same length twice": post + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "a list of lengths": post + b"Content-Length: 5, 5\r\n\r\nhello",
        "a negative length": post + b"Content-Length: -5\r\n\r\n",
        "a signed length": post + b"Content-Length: +5\r\n\r\nhello",
        "a length in base 16": post + b"Content-Length: 0x5\r\n\r\nhello",
        "a length with a fraction": post + b"Content-Length: 5.0\r\n\r\nhello",
        "a length with an exponent": post + b"Content-Length: 5e0\r\n\r\nhello",
        "a length with a space inside": post + b"Content-Length: 1 5\r\n\r\nhello",
        "a length with an underscore": post + b"Content-Length: 1_0\r\n\r\nhello",
        "an empty length": post + b"Content-Length: \r\n\r\n",
        "a length of 30 digits": post + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
        "a length beyond 64 bits": post + b"Content-Length: %d\r\n\r\n" % 2**64,
        "a length in Arabic digits": post + b"Content-Length: \xd9\xa5\r\n\r\nhello",
    })  # fmt: skip
    yield from _case("length", "more than max_body_bytes, refused before it comes", {
        "a length of 1 TB": post + b"Content-Length: %d\r\n\r\n" % 10**12,
        "a length of 2**63 - 1": post + b"Content-Length: %d\r\n\r\n" % (2**63 - 1),
        "a length of 1 TB, with Expect": post
        + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % 10**12,
    }, TOO_LARGE)  # fmt: skip
    yield from _case("length", "a body that ends early is not waited for", {
        "a length that is too long": (
            post + b"Content-Length: 1000\r\n\r\nhello", EndOfInput()
        ),
    }, frozenset({HUNG_UP}))  # fmt: skip
    yield from _case("length", "no body", {
        "no length": post + b"\r\n",
        "length 0": post + b"Content-Length: 0\r\n\r\n",
    })  # fmt: skip


def _chunks() -> Iterator[Input]:
    post = head(CLASSIFY, _CHUNKED)
    yield from _case("chunks", "RFC 9112, 7.1", {
        "no size of a chunk": post + b"x\r\nhello\r\n0\r\n\r\n",
        "an empty size": post + b"\r\nhello\r\n0\r\n\r\n",
        "a negative chunk": post + b"-5\r\nhello\r\n0\r\n\r\n",
        "a signed chunk": post + b"+5\r\nhello\r\n0\r\n\r\n",
        "a chunk with 0x": post + b"0x5\r\nhello\r\n0\r\n\r\n",
        "a chunk of 20 digits": post + b"f" * 20 + b"\r\nhello\r\n0\r\n\r\n",
        "a chunk longer than its size": post + b"3\r\nhello\r\n0\r\n\r\n",
        "LF behind a size": post + b"5\nhello\r\n0\r\n\r\n",
        "LF behind a chunk": post + b"5\r\nhello\n0\r\n\r\n",
        "a space before a size": post + b" 5\r\nhello\r\n0\r\n\r\n",
        "a bare CR in an extension": post + b"5;a=\rb\r\nhello\r\n0\r\n\r\n",
        "NUL in an extension": post + b"5;a=\0\r\nhello\r\n0\r\n\r\n",
        "a trailer that is no header": post + b"0\r\nA B: c\r\n\r\n",
        "a trailer that is a length": post + b"5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n",
        "a trailer that is folded": post + b"0\r\nA: b\r\n c\r\n\r\n",
    })  # fmt: skip
    yield from _case("chunks", "the body is no image", {
        "chunks of one byte": post + chunks(*(b"x" for _ in range(5000))),
        "a size with many zeros": post + b"0" * 12 + b"5\r\nhello\r\n0\r\n\r\n",
    }, BAD_FILE)  # fmt: skip
    yield from _case("chunks", "no body, or an end that never comes", {
        "no chunk at all": post + b"0\r\n\r\n",
    })  # fmt: skip
    yield from _case("chunks", "more than is held at once", {
        "an extension of 1 MB": post + b"5;" + b"a" * 10**6 + b"\r\nhello\r\n0\r\n\r\n",
        "10,000 trailers": post + b"5\r\nhello\r\n0\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
    }, frozenset({400, 413, 422, 431}))  # fmt: skip


def _smuggling() -> Iterator[Input]:
    """A second request hides where another reader would see a body, and must not be answered."""
    hidden = b"GET /v1/models HTTP/1.1\r\n" + HOST + b"\r\n"
    post = head()[:-2]
    coded = b"Transfer-Encoding: chunked\r\n"
    yield from _case("smuggling", "two readers would see two different bodies; RFC 9112, 6.3", {
        "length and chunks": post + b"Content-Length: 5\r\n" + coded + b"\r\n0\r\n\r\n" + hidden,
        "chunks and length": post + coded + b"Content-Length: 4\r\n\r\n" + chunks(hidden),
        "chunks and length 0": post + coded + b"Content-Length: 0\r\n\r\n" + hidden,
        "chunks twice": post + coded + coded + b"\r\n" + chunks() + hidden,
        "chunks twice in one": post
        + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + chunks() + hidden,
        "chunks not last": post + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + chunks() + hidden,
        "chunks and identity": post
        + b"Transfer-Encoding: chunked, identity\r\n\r\n" + chunks() + hidden,
        "a vertical tab before chunked": post
        + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + chunks() + hidden,
        "NUL behind chunked": post + b"Transfer-Encoding: chunked\0\r\n\r\n" + chunks() + hidden,
        "chunked in quotes": post + b'Transfer-Encoding: "chunked"\r\n\r\n' + chunks() + hidden,
        "chunked with a parameter": post
        + b"Transfer-Encoding: chunked;a=b\r\n\r\n" + chunks() + hidden,
        "a space before the colon": post
        + b"Transfer-Encoding : chunked\r\n\r\n" + chunks() + hidden,
        "a folded coding": post + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + chunks() + hidden,
        "LF between two headers": post + b"A: b\nTransfer-Encoding: chunked\r\n\r\n" + hidden,
        "chunks in HTTP/1.0 with a length": post.replace(b"HTTP/1.1", b"HTTP/1.0")
        + coded + b"Content-Length: 5\r\n\r\n" + chunks() + hidden,
        "an unknown coding": post + b"Transfer-Encoding: cow\r\n\r\n" + chunks() + hidden,
        "no coding": post + b"Transfer-Encoding: \r\n\r\n" + hidden,
    }, BROKEN | {501})  # fmt: skip
    yield from _case("smuggling", "a coding that is not supported; RFC 9112, 6.1", {
        "gzip in chunks": post
        + b"Transfer-Encoding: gzip, chunked\r\n\r\n"
        + chunks(gzip.compress(good_files()["png"])),
        "gzip and chunks in two headers": post
        + b"Transfer-Encoding: gzip\r\n" + coded + b"\r\n"
        + chunks(gzip.compress(good_files()["png"])),
    }, frozenset({400, 501}))  # fmt: skip
    sized = b"GET /healthz HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(hidden)
    yield from _case("smuggling", "the body belongs to the first request", {
        "a request in the body of a GET": sized + hidden,
        "a request in the body of a HEAD with a length of 0": LIVE,
    }, HARMLESS)  # fmt: skip


def _protocols() -> Iterator[Input]:
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(503)
    yield from _case("another protocol", "not HTTP/1.1 on this port", {
        "HTTP/2 at once": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
        "TLS": hello,
        "SSL 2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(40),
        "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
        "SMTP": b"EHLO example.org\r\n",
        "Redis": b"*1\r\n$4\r\nPING\r\n",
        "a proxy's line": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + LIVE,
        "gRPC's frame": b"\0\0\0\0\5hello",
        "memcached": b"stats\r\n",
        "SIP": b"OPTIONS sip:a@b SIP/2.0\r\n\r\n",
    })  # fmt: skip
    yield from _case("another protocol", "the parser knows it, but there is no such route", {
        "RTSP": b"DESCRIBE rtsp://a/b RTSP/1.0\r\n\r\n",
    }, BROKEN | {404, 405})  # fmt: skip
    unfinished: dict[str, bytes | tuple[Step, ...]] = {
        "HTTP/0.9": b"GET /healthz\r\n",
        "a chunk of 15 digits": head(CLASSIFY, _CHUNKED) + b"fffffffffffffff\r\n" + bytes(2**16),
    }
    for case in _case("another protocol", "an end that never comes", unfinished, BROKEN | {408}):
        yield replace(case, slow=True)
    upgrade = _GET + b"Connection: Upgrade\r\nUpgrade: "
    yield from _case("another protocol", "a server may ignore an upgrade; RFC 9110, 7.8", {
        "WebSocket": upgrade + b"websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        "h2c": upgrade + b"h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        "an upgrade to nonsense": upgrade + b"nonsense/9\r\n\r\n",
        "an upgrade to TLS": upgrade + b"TLS/1.0\r\n\r\n",
    }, HARMLESS)  # fmt: skip
    sized = head(CLASSIFY, b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 5")
    yield from _case("another protocol", "the upgrade is ignored, the body is no image", {
        "WebSocket with a body": sized + b"hello",
    }, BAD_FILE)  # fmt: skip


def _ends() -> Iterator[Input]:
    """Clients that stop sending."""
    sized = head(CLASSIFY, b"Content-Length: 5") + b"hello"
    yield from _case("hanging up", "the request is whole, and its client still listens", {
        "end of input behind a request": (sized, EndOfInput()),
    }, BAD_FILE)  # fmt: skip
    yield from _case("hanging up", "there is no request, or half of one", {
        "end of input at once": (EndOfInput(),),
        "end of input in the head": (sized[:30], EndOfInput()),
        "end of input in the body": (sized[:-1], EndOfInput()),
        "end of input in a chunk": (
            head(CLASSIFY, _CHUNKED) + b"5\r\nhel", Pause(0.05), EndOfInput()
        ),
        "end of input behind an empty line": (b"\r\n", EndOfInput()),
    }, frozenset({HUNG_UP}))  # fmt: skip


def _many() -> Iterator[Input]:
    """Many requests at once on one connection."""
    bad = head(CLASSIFY, b"Content-Length: 5") + b"hello"
    yield from _case("pipeline", "each is answered in its turn", {
        "500 requests at once": LIVE * 500,
    }, HARMLESS, answers=500)  # fmt: skip
    yield from _case("pipeline", "each is refused in its turn", {
        "200 bad images at once": bad * 200,
    }, BAD_FILE, answers=200)  # fmt: skip
    yield from _case("pipeline", "what is behind a broken one is not HTTP any more", {
        "a broken request before good ones": _GET + b"A B: c\r\n\r\n" + LIVE * 50,
    })  # fmt: skip
    yield from _case("pipeline", "an image and a request for more", {
        "empty lines before a request": b"\r\n" * 2 + LIVE,
    }, HARMLESS)  # fmt: skip
    closing = LIVE.replace(HOST, HOST + b"Connection: close\r\n")
    yield from _case("pipeline", "the client wanted no more answers", {
        "requests behind one that closes": closing + LIVE * 10,
    }, HARMLESS)  # fmt: skip
