"""What a foreign graph says about its inputs and outputs, and how a configuration fits that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from service.engine.errors import ModelLoadError
from service.model_config import Color, Datatype, InputConfig, Layout, Side

_DATATYPES: dict[str, Datatype] = {
    "tensor(uint8)": "uint8",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
}
_CHANNELS = (1, 3)
_MAX_SIDE = next(limit.le for limit in get_args(Side)[1].metadata if hasattr(limit, "le"))
_CONFIG_HINT = "Correct config.toml; it is read again when it changes."


@dataclass(frozen=True)
class GraphInput:
    """The one input of a graph.

    Attributes:
        name: Its name.
        datatype: Of its elements.
        shape: Four sizes; None where the graph leaves one open.
    """

    name: str
    datatype: Datatype
    shape: tuple[int | None, int | None, int | None, int | None]


@dataclass(frozen=True)
class FittedInput:
    """An input with everything settled, from the graph and the configuration.

    Attributes:
        name: Of the graph's input.
        datatype: Of its elements.
        layout: Order of its dimensions.
        channels: 1 or 3.
        height: Pixels.
        width: Pixels.
        batch_size: Pictures of every run; None: any number.
    """

    name: str
    datatype: Datatype
    layout: Layout
    channels: int
    height: int
    width: int
    batch_size: int | None


def misfit(sentence: str) -> ModelLoadError:
    """A configuration that does not fit its graph."""
    return ModelLoadError(f"config.toml: {sentence}", hint=_CONFIG_HINT)


def read_input(graph: Any) -> GraphInput:
    """The input of a session.

    Raises:
        ModelLoadError: There is not exactly one, or it can't be pictures.
    """
    inputs = graph.get_inputs()
    if len(inputs) != 1:
        raise _no_classifier(
            f"The graph takes {len(inputs)} inputs ({_names(inputs)}); an image classifier"
            " takes one."
        )
    tensor = inputs[0]
    if tensor.type not in _DATATYPES:
        raise _no_classifier(
            f"The graph's input {tensor.name!r} is a {tensor.type}; uint8, float16, float32 and"
            " float64 tensors are served."
        )
    shape = tuple(_size(size) for size in tensor.shape or ())
    if len(shape) != 4:
        raise _no_classifier(
            f"The graph's input {tensor.name!r} has {len(shape)} dimensions; pictures have four,"
            " [N, C, H, W] or [N, H, W, C]."
        )
    return GraphInput(tensor.name, _DATATYPES[tensor.type], shape)


def float_outputs(graph: Any) -> list[str]:
    """Names of the outputs that could hold classes.

    Raises:
        ModelLoadError: There is none.
    """
    outputs = graph.get_outputs()
    found = [o.name for o in outputs if o.type in _DATATYPES and o.type != "tensor(uint8)"]
    if not found:
        raise _no_classifier(
            f"None of the graph's outputs ({_names(outputs)}) is a tensor of floats."
        )
    return found


def layouts(shape: tuple[int | None, ...]) -> list[Layout]:
    """The layouts that a shape allows, by where the channels can be; best first."""
    found: list[tuple[bool, Layout]] = []
    for layout, at in (("NCHW", 1), ("NHWC", 3)):
        if shape[at] is None or shape[at] in _CHANNELS:
            found.append((shape[at] is None, layout))  # type: ignore[arg-type]
    # A stated 1 or 3 says more than an open dimension.
    certain = [layout for is_open, layout in found if not is_open]
    return certain or [layout for _, layout in found]


def fit_input(given: GraphInput, config: InputConfig, color: Color | None) -> FittedInput:
    """Settle the input.

    Args:
        given: What the graph says.
        config: What the configuration says.
        color: Its order of channels; says how many there are where the graph doesn't.

    Raises:
        ModelLoadError: They contradict each other, or neither says what is needed.
    """
    _agree("input.name", config.name, given.name)
    _agree("input.datatype", config.datatype, given.datatype)
    layout = _fit_layout(given, config.layout)
    batch, *rest = given.shape
    if layout == "NCHW":
        channels, height, width = rest
    else:
        height, width, channels = rest
    _agree("input.batch_size", config.batch_size, batch)
    if channels is None:
        channels = 1 if color == "grey" else 3
    return FittedInput(
        given.name,
        given.datatype,
        layout,
        channels,
        _fit_side("height", config.height, height),
        _fit_side("width", config.width, width),
        batch or config.batch_size,
    )


def _fit_layout(given: GraphInput, wanted: Layout | None) -> Layout:
    shape = [size or "any" for size in given.shape]
    allowed = layouts(given.shape)
    if not allowed:
        raise _no_classifier(
            f"The graph's input {given.name!r} has the shape {shape}; neither the second nor the"
            " last size is 1 or 3 channels."
        )
    if wanted is None and len(allowed) > 1:
        raise misfit(
            f"input.layout is missing; the graph takes {shape}, so only config.toml can say"
            " whether that is 'NCHW' or 'NHWC'."
        )
    if wanted is not None and wanted not in allowed:
        raise misfit(
            f"input.layout is {wanted!r}, but the graph takes {shape}; {allowed[0]!r} would be"
            " right."
        )
    return wanted or allowed[0]


def _fit_side(name: str, wanted: int | None, given: int | None) -> int:
    _agree(f"input.{name}", wanted, given)
    side = given or wanted
    if side is None:
        raise misfit(f"input.{name} is missing; the graph takes any, so config.toml must say it.")
    if side > _MAX_SIDE:
        raise _no_classifier(
            f"The graph takes pictures with a {name} of {side} pixels; the limit is {_MAX_SIDE}."
        )
    return side


def _agree(field: str, wanted: object, given: object) -> None:
    if wanted is not None and given is not None and wanted != given:
        raise misfit(f"{field} is {wanted!r}, but the graph has {given!r}.")


def _size(size: object) -> int | None:
    # Exporters write 0 and -1, too, for a size that is open.
    return size if isinstance(size, int) and size > 0 else None


def _names(tensors: Any) -> str:
    return ", ".join(repr(tensor.name[:50]) for tensor in tensors[:8])


def _no_classifier(sentence: str) -> ModelLoadError:
    return ModelLoadError(
        sentence, hint="Only image classifiers with one picture input can be served."
    )
