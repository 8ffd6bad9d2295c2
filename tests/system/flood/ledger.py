"""What was sent, what came of it, and whether that was right."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from tests.system.flood.wire import Answer

MODEL = "identities"


@dataclass(frozen=True)
class Request:
    """One classification.

    Attributes:
        kind: Its line in the table.
        body: All of it.
        content_type: Of the body.
        expected: Identity of each image; None where it is no image.
        chunked: Its length is not stated.
        skip: Bad images are to be skipped.
        timeout_ms: Its own deadline.
        version: The one that it asks for.
    """

    kind: str
    body: bytes
    content_type: str
    expected: list[int | None]
    chunked: bool = False
    skip: bool = False
    timeout_ms: int | None = None
    version: int | None = None

    @property
    def query(self) -> str:
        query = f"?model={MODEL}&top_k=1"
        if self.skip:
            query += "&on_error=skip"
        return query if self.version is None else f"{query}&version={self.version}"

    @property
    def bad(self) -> list[int]:
        return [index for index, identity in enumerate(self.expected) if identity is None]


@dataclass
class Ledger:
    """Every request has one line here, and one entry when it has ended."""

    begun: Counter[str] = field(default_factory=Counter)
    ended: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    failures: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)  # by the tag of a model file
    tags: Counter[str] = field(default_factory=Counter)  # of the files that gave right answers
    seen: defaultdict[str, asyncio.Event] = field(
        default_factory=lambda: defaultdict(asyncio.Event)
    )

    def begin(self, kind: str) -> str:
        """Returns an id that no other request has."""
        self.begun[kind] += 1
        return f"{kind.replace(' ', '-').replace(',', '')}.{self.begun[kind]}"

    def end(self, kind: str, outcome: str) -> None:
        self.ended[kind][outcome] += 1

    def fail(self, kind: str, why: str) -> None:
        self.failures.append(f"{kind}: {why}")
        self.end(kind, "WRONG")

    def check(self, request: Request, request_id: str, answer: Answer) -> None:
        """Enter an answer."""
        try:
            assert answer.headers["x-request-id"] == request_id, "the answer to another request"
            self.end(request.kind, self._outcome(request, answer))
        except (AssertionError, KeyError, ValueError, IndexError) as error:
            why = f"{request_id}: {type(error).__name__} {error}; {answer.status}"
            self.fail(request.kind, f"{why} {answer.body[:300]!r}")

    def _outcome(self, request: Request, answer: Answer) -> str:
        if answer.status == 200:
            self._check_results(request, answer)
            return "right"
        problem = answer.json()
        code = str(problem["code"])
        assert problem["status"] == answer.status
        may_be = {("queue_full", 503)}
        if request.timeout_ms is not None:
            may_be.add(("deadline_exceeded", 504))
        if request.version is not None:
            may_be |= {("version_not_found", 404), ("model_not_ready", 503)}
        if request.bad and not request.skip:
            alone = len(request.expected) == 1
            may_be.add(("image_undecodable" if alone else "invalid_images", 422))
        assert (code, answer.status) in may_be, "not the status that it must have"
        if answer.status == 503:
            assert int(answer.headers["retry-after"]) >= 1
        if answer.status == 422:
            assert [error["index"] for error in problem["errors"]] == request.bad
        return f"{answer.status} {code}"

    def _check_results(self, request: Request, answer: Answer) -> None:
        body = answer.json()
        results = body["results"]
        assert request.skip or not request.bad, "a bad image was not noticed"
        assert len(results) == len(request.expected), f"{len(results)} results"
        tags = set()
        for index, (result, identity) in enumerate(zip(results, request.expected, strict=True)):
            if identity is None:
                assert result["error"]["index"] == index
                assert result["error"]["code"] == "image_undecodable"
                continue
            tag, _, found = result["predictions"][0]["label"].partition(":")
            assert int(found) == identity, f"image {index} is {identity}, answered as {found}"
            tags.add(tag)
        version = body["version"]
        assert answer.headers["x-model"] == f"{MODEL}/{version}"
        assert request.version in (None, version)
        if tags:
            (tag,) = tags  # one file answers all of a request
            assert tag.partition(".")[0] == str(version), f"{tag} is not of version {version}"
            assert answer.headers["x-model-digest"] == self.digests[tag]
            self.tags[tag] += 1
            self.seen[tag].set()

    def outcomes(self) -> Counter[str]:
        return sum(self.ended.values(), Counter())

    def table(self) -> str:
        columns = sorted(self.outcomes())
        rows = [["kind", "sent", *columns]]
        for kind in sorted(self.begun):
            counts = [str(self.ended[kind][column] or "") for column in columns]
            rows.append([kind, str(self.begun[kind]), *counts])
        totals = [str(self.outcomes()[column]) for column in columns]
        rows.append(["all", str(sum(self.begun.values())), *totals])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )
