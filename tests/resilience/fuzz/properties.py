"""What must hold whatever is sent: an answer that says what is wrong, and on it goes."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from tests.resilience.fuzz import mutations
from tests.resilience.hostile.attack import complaint_of
from tests.resilience.hostile.exchange import act
from tests.resilience.hostile.inputs import (
    BROKEN,
    CLASSIFY,
    HUNG_UP,
    EndOfInput,
    Input,
    Step,
    post,
    raw,
)
from tests.resilience.hostile.instances import PREDICT
from tests.resilience.hostile.tensors import INFER
from tests.resilience.traffic import MODEL
from tests.system.flood.pictures import IDENTITIES, file_of

_GOOD_OR_BAD = frozenset({200, 400, 408, 413, 415, 422, 431})
# Lines of the head are changed too: route, method, host, protocol.
_ANY = _GOOD_OR_BAD | {HUNG_UP, 404, 405, 501, 504}
_FILE = frozenset({200, 422})


@dataclass(frozen=True)
class Property:
    """Something to draw, and to send.

    Attributes:
        name: To ask for it by.
        drawn: What Hypothesis draws.
        case: What is sent of it, and what may come back.
    """

    name: str
    drawn: st.SearchStrategy[Any]
    case: Callable[[Any], Input]

    def check(self, port: int, drawn: Any) -> None:
        """Send what was drawn, and then a good picture, which must be known."""
        case = self.case(drawn)
        answers = asyncio.run(act(port, case))
        if case.expected is not _ANY:  # any number of requests may have come out of a changed head
            assert len(answers) == 1, f"{len(answers)} answers"
        for answer in answers:
            complaint = complaint_of(case, answer)
            assert complaint is None, complaint
        identity = hash(repr(drawn)) % IDENTITIES
        assert known(port, identity) == identity


def known(port: int, identity: int) -> int:
    """What the service sees in the picture of an identity."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        path = f"{CLASSIFY}?model={MODEL}&top_k=1"
        connection.request("POST", path, file_of(identity, "PNG"), {"Content-Type": "image/png"})
        answer = connection.getresponse()
        body = answer.read()
    assert answer.status == 200, body
    label: str = json.loads(body)["results"][0]["predictions"][0]["label"]
    return int(label.partition(":")[2])


def _body(target: str, kind: str, expected: frozenset[int]) -> Callable[[bytes], Input]:
    def case(body: bytes) -> Input:
        statuses = expected if body else BROKEN
        return post("fuzz", kind, "any", body, kind, statuses, target=target)

    return case


def _json(target: str, key: str) -> Callable[[Any], Input]:
    def case(value: Any) -> Input:
        text = json.dumps({key: value}).encode()
        return post("fuzz", key, "JSON", text, "application/json", _GOOD_OR_BAD, target=target)

    return case


def _inference(drawn: tuple[bytes, bytes]) -> Input:
    header, body = drawn
    expected = _GOOD_OR_BAD | {504}  # a time limit of a microsecond may have been drawn
    return post("fuzz", "infer", "v2", body, "", expected, target=INFER, headers=(header,))


def _request(data: bytes) -> Input:
    steps: tuple[Step, ...] = data, EndOfInput()
    return replace(raw("fuzz", "request", "HTTP", *steps, expected=_ANY), limit_s=60)


PROPERTIES = (
    Property("files", mutations.pictures(), _body(CLASSIFY, "application/octet-stream", _FILE)),
    Property("arrays", mutations.arrays(), _body(CLASSIFY, "application/x-npy", _GOOD_OR_BAD)),
    Property("lines", st.lists(mutations.json_values(), max_size=5).map(
        lambda values: "\n".join(map(json.dumps, values)).encode()
    ), _body(CLASSIFY, "application/x-ndjson", _GOOD_OR_BAD)),
    Property("images", mutations.json_values(), _json(CLASSIFY, "images")),
    Property("instances", mutations.json_values(), _json(PREDICT, "instances")),
    Property("inferences", mutations.inferences(), _inference),
    Property("requests", mutations.requests(), _request),
)  # fmt: skip
