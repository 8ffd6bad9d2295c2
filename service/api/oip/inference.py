"""What an inference asks for, and the reply to it.

Source: Open Inference Protocol, "Inference"; Triton's binary tensor data, classification and
parameters extensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.api.limits import BodyLimits
from service.api.oip.body import Body
from service.api.oip.document import (
    parse_object,
    read_flag,
    read_list,
    read_number,
    read_parameters,
    read_text,
    shown,
)
from service.api.oip.tensors import check_no_shared_memory, images_of, raw_image, read_tensors
from service.engine.errors import InvalidParameterError, InvalidTensorError
from service.engine.images import Chunk
from service.engine.session import Prediction
from service.metadata import INPUT_NAME, LOGITS_NAME, PROBABILITIES_NAME, Input

OUTPUTS = (LOGITS_NAME, PROBABILITIES_NAME)
_RESERVED = "triton_"
_US = 1e-6  # a timeout is in microseconds


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """One output of a reply.

    Attributes:
        name: Of it.
        binary: As bytes behind the JSON, not in it.
        classes: The best so many classes as text; 0: all scores as numbers.
    """

    name: str
    binary: bool = False
    classes: int = 0


@dataclass(frozen=True, slots=True)
class Inference:
    """A request, checked.

    Attributes:
        id: The client's name for it, to be repeated; None without one.
        images: Pixels uint8 [N, height, width, 3], or encoded images.
        outputs: In the order of the reply.
        timeout_s: Time that the client gives it; None: as configured.
    """

    id: str | None
    images: Chunk
    outputs: tuple[WantedOutput, ...]
    timeout_s: float | None = None


def read_inference(body: Body, size: Input, limits: BodyLimits, max_timeout_s: float) -> Inference:
    """Read a request.

    Args:
        body: JSON and tensors, or a tensor alone.
        size: What the model takes.
        limits: On the number of images.
        max_timeout_s: The longest time that a client may ask for.

    Raises:
        InputError: It is not what the protocol says or the model takes.
    """
    if body.json is None:
        outputs = tuple(WantedOutput(name, binary=True) for name in OUTPUTS)
        return Inference(None, raw_image(body.tensors, INPUT_NAME, size), outputs)
    document = parse_object(body.json)
    identity = document.get("id")
    if identity is not None:
        read_text(identity, "'id'")
    parameters = read_parameters(document.get("parameters"), "the request's parameters")
    for name in parameters:
        if name.startswith(_RESERVED):
            raise InvalidParameterError(
                f"Parameter {shown(name)} is reserved.",
                hint=f"Names of parameters must not begin with '{_RESERVED}'.",
            )
    binary = read_flag(parameters.get("binary_data_output", False), "'binary_data_output'")
    timeout_s = _timeout_s(parameters.get("timeout", 0), max_timeout_s)
    outputs = _read_outputs(document.get("outputs"), binary)
    tensors = read_tensors(document.get("inputs"), body.tensors)
    names = [tensor.name for tensor in tensors]
    if names != [INPUT_NAME]:
        raise InvalidTensorError(
            f"The request has the inputs {shown(names)}, but the model takes exactly one,"
            f" {INPUT_NAME!r}.",
            hint="GET /v2/models/<name> describes it.",
        )
    return Inference(identity, images_of(tensors[0], size, limits), outputs, timeout_s)


def _timeout_s(given: Any, limit_s: float) -> float | None:
    microseconds = read_number(given, "'timeout'")
    if microseconds > limit_s / _US:
        raise InvalidParameterError(
            f"'timeout' is {shown(microseconds)} microseconds; the limit is {limit_s / _US:.0f}.",
            hint="Allow less time.",
        )
    return microseconds * _US or None


def _read_outputs(given: Any, binary: bool) -> tuple[WantedOutput, ...]:
    """The outputs that are asked for; all of them where none are."""
    outputs = [] if given is None else read_list(given, "'outputs'")
    found: dict[str, WantedOutput] = {}
    for one in outputs:
        name = read_text(one.get("name"), "The 'name' of an output")
        if name not in OUTPUTS or name in found:
            problem = "asked for twice" if name in found else "unknown"
            raise InvalidTensorError(
                f"Output {shown(name)} is {problem}.",
                hint=f"The model gives {' and '.join(map(repr, OUTPUTS))}.",
            )
        what = f"output {name!r}"
        parameters = read_parameters(one.get("parameters"), f"the parameters of {what}")
        check_no_shared_memory(parameters)
        found[name] = WantedOutput(
            name,
            read_flag(parameters.get("binary_data", binary), f"'binary_data' of {what}"),
            read_number(parameters.get("classification", 0), f"'classification' of {what}"),
        )
    return tuple(found.values()) or tuple(WantedOutput(name, binary) for name in OUTPUTS)


def write_reply(
    model: tuple[str, int],
    inference: Inference,
    prediction: Prediction,
    labels: Sequence[str],
) -> tuple[bytes, int | None]:
    """Write the reply to an inference.

    Args:
        model: Name and version of what answers.
        inference: What was asked for.
        prediction: Scores of its N images, float32 [N, C].
        labels: Names of the C classes.

    Returns:
        The body, and how many bytes of it are JSON where tensors follow; scores that are no number
        are null in JSON.
    """
    outputs, binary = list[dict[str, Any]](), list[bytes]()
    for wanted in inference.outputs:
        scores: NDArray[np.float32] = getattr(prediction, wanted.name)
        output, data = _write_output(wanted, scores, labels)
        outputs.append(output)
        if data is not None:
            binary.append(data)
    name, version = model
    reply: dict[str, Any] = {"model_name": name, "model_version": str(version)}
    if inference.id is not None:
        reply["id"] = inference.id
    reply["outputs"] = outputs
    text = orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((text, *binary)), len(text)) if binary else (text, None)


def _write_output(
    wanted: WantedOutput, scores: NDArray[np.float32], labels: Sequence[str]
) -> tuple[dict[str, Any], bytes | None]:
    """One output as the JSON has it, and its bytes where they are to follow."""
    data: bytes | None = None
    output: dict[str, Any] = {"name": wanted.name}
    if wanted.classes:
        texts = best_classes(scores, wanted.classes, labels)
        output |= {"datatype": "BYTES", "shape": [len(scores), len(texts) // len(scores)]}
        if not wanted.binary:
            return output | {"data": texts}, None
        data = b"".join(
            len(text).to_bytes(4, "little") + text for text in (text.encode() for text in texts)
        )
    else:
        output |= {"datatype": "FP32", "shape": list(scores.shape)}
        if not wanted.binary:
            return output | {"data": np.ascontiguousarray(scores).ravel()}, None
        data = scores.astype("<f4", copy=False).tobytes()
    return output | {"parameters": {"binary_data_size": len(data)}}, data


def best_classes(scores: NDArray[np.float32], k: int, labels: Sequence[str]) -> list[str]:
    """The best classes of each image as ``value:index:label``, best first.

    Equal scores are in the order of their classes; what is no number comes last.

    Args:
        scores: float32 [N, C].
        k: Classes an image; C where it is more.
        labels: Names of the C classes.

    Returns:
        N times min(k, C) texts, row by row.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, : min(k, scores.shape[1])]
    values = np.take_along_axis(scores, order, axis=1)
    return [
        f"{value:.6f}:{index}:{labels[index]}"
        for value, index in zip(values.ravel().tolist(), order.ravel().tolist(), strict=True)
    ]
