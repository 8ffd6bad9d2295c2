"""Look through an ONNX file before ONNX Runtime opens it.

An ONNX file is a protobuf message. This walks over all of it without the onnx package and refuses
what a model of ours or a fair foreign one never has: weights in other files, operators from
libraries, tensors that claim more elements than the file has bytes. It takes any bytes: depth and
number of fields are bounded, and nothing is copied or allocated by what the file claims.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from service.engine.errors import ModelLoadError

MAX_MODEL_BYTES = 2**31 - 1  # protobuf's own limit
# ONNX's own operators, its classical ones, and those that ONNX Runtime has built in.
_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
# Runs a blob that was compiled for one device, from a file of any name.
_FORBIDDEN_OPERATORS = {"EPContext"}
_MAX_DEPTH = 64  # graphs in nodes in graphs; protobuf's parser stops at 100
_MAX_FIELDS = 1_000_000  # a second or two; a large network has 100,000
_ELEMENTS_A_BYTE = 4  # the smallest datatype has 2 bits
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Where messages stand in messages: number of the field, and what it holds (onnx.proto).
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "tensor": {13: "external"},
    "external": {},
}
# The fields that say something here; a network may have millions of others.
_NOTED: dict[str, set[int]] = {
    "model": {7},
    "node": {4, 7},
    "function": {1, 10},
    "tensor": {1, 8, 14},
    "external": {1, 2},
}


@dataclass(slots=True)
class Field:
    """One field of a message.

    Attributes:
        number: Which one.
        wire: How it is encoded.
        begin: Where it begins in the file, with its tag.
        start: Where its content begins.
        stop: Where it ends.
        value: The number, of a varint.
    """

    number: int
    wire: int
    begin: int
    start: int
    stop: int
    value: int = 0


def check_model_file(data: bytes) -> None:
    """Refuse a file that is no ONNX model, or one that no classifier needs to be.

    Raises:
        ModelLoadError: It is damaged, too large, keeps weights elsewhere, uses custom operators or
            sparse tensors, or a tensor's shape has more elements than the file could hold.
    """
    found = look_through(data)
    unknown = sorted(found.operators - found.functions)
    for domain, operator in unknown:
        if domain not in _DOMAINS or operator in _FORBIDDEN_OPERATORS:
            raise ModelLoadError(
                f"The model uses the custom operator {domain + '::' + operator!r}; only the"
                " operators of ONNX and ONNX Runtime are run.",
                hint="Export it without that operator's library.",
            )
    if found.external:
        raise ModelLoadError(
            f"The model keeps weights in another file, {found.external[0]!r}; a version is one"
            " file.",
            hint="'adaresnet import' puts both into one.",
        )


@dataclass
class Contents:
    """What a walk over a file has found.

    Attributes:
        operators: Domain and type of every node, in subgraphs too.
        functions: Domain and name of those that the file itself defines.
        external: Names of other files that tensors refer to.
        graphs: How many main graphs there are.
    """

    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    external: list[str] = field(default_factory=list)
    graphs: int = 0


def look_through(data: bytes) -> Contents:
    """Walk over every message that can hold weights or operators.

    Raises:
        ModelLoadError: The bytes are no ONNX model, or a tensor is sparse or claims too much.
    """
    if len(data) > MAX_MODEL_BYTES:
        raise ModelLoadError(
            f"The file has {len(data)} bytes; the limit is {MAX_MODEL_BYTES}.",
            hint="Serve a smaller model.",
        )
    found = Contents()
    waiting = [("model", 0, len(data), 0)]
    visited = 0
    while waiting:
        kind, start, stop, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise _damaged(f"its parts are nested more than {_MAX_DEPTH} deep")
        children, noted = _CHILDREN[kind], _NOTED.get(kind, ())
        fields = []
        for item in message_fields(data, start, stop):
            visited += 1
            if visited > _MAX_FIELDS:
                raise _damaged(f"it has more than {_MAX_FIELDS} parts")
            if item.number in noted:
                fields.append(item)
            child = children.get(item.number)
            if child is None or item.wire != _BYTES:
                continue
            if child == "sparse":
                raise ModelLoadError(
                    "The model has a sparse tensor; only dense ones are taken.",
                    hint="Export it with dense weights.",
                )
            waiting.append((child, item.start, item.stop, depth + 1))
        _note(found, kind, data, fields)
    if not found.graphs:
        raise _damaged("it has no graph")
    return found


def message_fields(data: bytes, start: int, stop: int) -> Iterator[Field]:
    """The fields of the message in ``data[start:stop]``, in order.

    Raises:
        ModelLoadError: The bytes are no message.
    """
    at = start
    while at < stop:
        begin = at
        tag, at = _varint(data, at, stop)
        number, wire = tag >> 3, tag & 7
        value = 0
        content = at
        if wire == _VARINT:
            value, at = _varint(data, at, stop)
        elif wire == _BYTES:
            length, content = _varint(data, at, stop)
            at = content + length
        elif wire in (_FIXED32, _FIXED64):
            at += 4 if wire == _FIXED32 else 8
        else:
            raise _damaged(f"there is no part of kind {wire} in ONNX")
        if at > stop or not number:
            raise _damaged("it ends in the middle of a part")
        yield Field(number, wire, begin, content, at, value)


def text(data: bytes, item: Field) -> str:
    """A field's text, at most 200 characters of it."""
    return data[item.start : min(item.stop, item.start + 200)].decode("utf-8", "replace")


def _note(found: Contents, kind: str, data: bytes, fields: list[Field]) -> None:
    def last(number: int) -> str:
        # As protobuf reads it: of several the last counts, one of another kind is no such field.
        texts = (f for f in reversed(fields) if f.number == number and f.wire == _BYTES)
        return next((text(data, f) for f in texts), "")

    if kind == "model":
        found.graphs = sum(f.wire == _BYTES for f in fields)
    elif kind == "node":
        found.operators.add((last(7), last(4)))
    elif kind == "function":
        found.functions.add((last(10), last(1)))
    elif kind == "tensor":
        if any(f.number == 14 and f.value for f in fields):
            found.external.append("")
        _check_size(data, fields, last(8))
    elif kind == "external":
        # The key "location" names the file; "offset" and "length" stand beside it.
        if last(1) == "location":
            found.external.insert(0, last(2))
        else:
            found.external.append("")


def _check_size(data: bytes, fields: list[Field], name: str) -> None:
    elements = 1
    for size in _dims(data, fields):
        elements *= size
        # A negative size is a very large varint.
        if elements > len(data) * _ELEMENTS_A_BYTE:
            raise ModelLoadError(
                f"The tensor {name[:100]!r} claims more elements than the file's {len(data)} bytes"
                " can hold.",
                hint="The file is damaged; export it again.",
            )


def _dims(data: bytes, fields: list[Field]) -> Iterator[int]:
    for item in fields:
        if item.number != 1:
            continue
        if item.wire == _BYTES:  # packed
            at = item.start
            while at < item.stop:
                size, at = _varint(data, at, item.stop)
                yield size
        elif item.wire == _VARINT:
            yield item.value


def _varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= stop:
            raise _damaged("it ends in the middle of a part")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise _damaged("a number in it is too long")


def _damaged(why: str) -> ModelLoadError:
    return ModelLoadError(
        f"The file is no ONNX model, or a damaged one: {why}.", hint="Export it again."
    )
