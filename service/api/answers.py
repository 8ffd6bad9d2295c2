"""Write the answer to a classification; the service and the command line share it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import orjson

from service.engine.batcher import Receipt
from service.engine.errors import ImageError
from service.engine.predictor import Outcome
from service.engine.repository import ReadyVersion

Headers = list[tuple[bytes, bytes]]

_CLASSES_AT_ONCE = 10_000
_DIGEST_DIGITS = 12  # tell files apart; GET /v1/models has all of them


def image_problem(error: ImageError, index: int) -> dict[str, Any]:
    """What is wrong with one image of a request."""
    return {"index": index, "code": error.code, "detail": error.detail, "hint": error.hint}


def write_answer(model: ReadyVersion, outcome: Outcome) -> bytes:
    """JSON as ``service.api.schemas.ClassifyResponse`` describes it."""
    head = orjson.dumps({"model": model.name, "version": model.version})
    pieces = [head[:-1] + b',"results":[']
    # Some at a time: as Python objects, results take ten times the memory of their text.
    some: list[dict[str, Any]] = []
    classes = 0
    for result in _results(model, outcome):
        some.append(result)
        classes += 1 + len(result.get("predictions", ()))
        if classes >= _CLASSES_AT_ONCE:
            pieces += [_dumps(some)[1:-1], b","]
            some, classes = [], 0
    if some:
        pieces.append(_dumps(some)[1:-1])
    elif len(pieces) > 1:
        pieces.pop()  # there is nothing behind the last comma
    return b"".join((*pieces, b"]}"))


def write_lines(model: ReadyVersion, outcome: Outcome) -> bytes:
    """One line of JSON an image, as ``service.api.schemas.ResultLine`` describes it."""
    index = itertools.count(outcome.start)
    lines = [
        _dumps({"index": number, **result})
        for number, result in zip(index, _results(model, outcome), strict=False)
    ]
    return b"\n".join((*lines, b""))


def write_receipt(model: ReadyVersion, decode_s: float, receipt: Receipt | None) -> Headers:
    """Headers that say which file answered, in what company, and where the time went.

    ``Server-Timing`` is in milliseconds (W3C Server Timing).
    """
    timing = f"decode;dur={decode_s * 1e3:.2f}"
    headers = write_identity(model)
    if receipt is not None:
        timing += f", queue;dur={receipt.queue_s * 1e3:.2f}, run;dur={receipt.run_s * 1e3:.2f}"
        headers.append((b"x-batch-size", str(receipt.batch_size).encode()))
    return [*headers, (b"server-timing", timing.encode())]


def write_identity(model: ReadyVersion) -> Headers:
    """Headers that say which file answers."""
    return [
        (b"x-model", f"{model.name}/{model.version}".encode()),
        (b"x-model-digest", model.digest[:_DIGEST_DIGITS].encode()),
    ]


def _dumps(value: object) -> bytes:
    # Not by pydantic; and numpy's float32 come out in their own shortest form.
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _results(model: ReadyVersion, outcome: Outcome) -> Iterator[dict[str, Any]]:
    labels = model.metadata.labels
    good = iter(outcome.ranking or ())
    for index in range(outcome.start, outcome.start + outcome.count):
        if index in outcome.errors:
            yield {"error": image_problem(outcome.errors[index], index)}
            continue
        ids, probabilities = next(good)
        yield {
            "predictions": [
                {"class_id": class_id, "label": labels[class_id], "probability": probability}
                for class_id, probability in zip(ids, probabilities, strict=True)
            ]
        }
