"""Clients that take their time, so that others have to wait for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.resilience.hostile.inputs import (
    CLASSIFY,
    HOST,
    HUNG_UP,
    Drip,
    EndOfInput,
    Input,
    Pause,
    Step,
    head,
    raw,
)

_TOO_SLOW = frozenset({408})
_FOR_EVER = 10_000
_CLIENTS = 20  # of each kind


def slow() -> Iterator[Input]:
    """All of them; each is to be cut off by the service, long before it would end by itself."""
    body = head(CLASSIFY, b"Content-Length: 100000")
    chunked = head(CLASSIFY, b"Transfer-Encoding: chunked")
    form = head(
        CLASSIFY, b"Content-Type: multipart/form-data; boundary=x", b"Content-Length: 2000000"
    )
    lines = head(CLASSIFY, b"Content-Type: application/x-ndjson", b"Transfer-Encoding: chunked")
    predict = head("/v1/models/identities:predict", b"Content-Length: 100000")
    infer = head("/v2/models/identities/infer", b"Content-Length: 100000")
    begin = b"POST /v1/classify HTTP/1.1\r\n" + HOST
    scripts: dict[str, tuple[Step, ...]] = {
        "a head of a byte now and then": (begin, Drip(b"A", 0.3, _FOR_EVER)),
        "a head of a header now and then": (begin, Drip(b"A: b\r\n", 1.0, _FOR_EVER)),
        "a head that stops": (begin, Pause(_FOR_EVER)),
        "a body that stops": (body + b"begin", Pause(_FOR_EVER)),
        "a body of a byte now and then": (body, Drip(b"a", 0.5, _FOR_EVER)),
        "a body that never begins": (body, Pause(_FOR_EVER)),
        "chunks of a byte now and then": (chunked, Drip(b"1\r\na\r\n", 0.5, _FOR_EVER)),
        "chunks that stop": (chunked + b"5\r\nhe", Pause(_FOR_EVER)),
        "a form that stops": (form + b"--x\r\nContent-Disposition: form-data", Pause(_FOR_EVER)),
        "lines of a byte now and then": (lines, Drip(b"1\r\n \r\n", 0.5, _FOR_EVER)),
        "instances that stop": (predict + b'{"instances": [', Pause(_FOR_EVER)),
        "a tensor that stops": (infer + b'{"inputs": [', Pause(_FOR_EVER)),
    }
    for name, script in scripts.items():
        for number in range(_CLIENTS):
            case = raw(
                "slow client",
                f"{name}, {number}",
                "head_timeout_s, body_pause_timeout_s or min_body_rate, 10 s each",
                *script,
                expected=_TOO_SLOW,
            )
            yield replace(case, slow=True)
    for number in range(_CLIENTS):
        case = raw(
            "slow client",
            f"a connection without a word, {number}",
            "it may be idle until keep_alive_s, or until its place is needed",
            Pause(15),
            EndOfInput(),
            expected=frozenset({HUNG_UP}),
        )
        yield replace(case, slow=True)
