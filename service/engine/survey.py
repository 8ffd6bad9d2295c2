"""Find out how a foreign model is to be served, by looking at its graph and by running it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from service.engine.errors import ModelLoadError
from service.engine.foreign import RawGraph, are_probabilities, raw_graph, try_pictures
from service.engine.label_names import labels_in_metadata
from service.engine.session import SessionOptions, open_graph
from service.engine.signature import FittedInput, float_outputs, layouts, read_input
from service.metadata import METADATA_KEY
from service.model_config import (
    BatchSize,
    Color,
    Datatype,
    InputConfig,
    Kind,
    Layout,
    ModelConfig,
    NormalizationConfig,
    OutputConfig,
    Side,
)

# A graph that takes any size is used with the commonest; one that fails there may run with another.
_SIDES = (224, 32, 28, 64, 96, 128, 160, 192, 240, 256, 288, 299, 320, 384, 448, 512)

Source = Literal["graph", "run", "given", "assumed"]


class Wishes(BaseModel):
    """What the caller knows and the graph need not be asked for."""

    model_config = ConfigDict(frozen=True)

    layout: Layout | None = None
    color: Color | None = None
    height: Side | None = None
    width: Side | None = None
    batch_size: BatchSize | None = None
    output: str | None = None
    kind: Kind | None = None


class Findings(BaseModel):
    """How a model is to be served.

    Attributes:
        channels: 1 or 3.
        batch_size: Pictures of every run; None: any number.
        outputs: All outputs that could have been chosen.
        classes: How many.
        labels: Their names, if the model's metadata has them.
        labels_key: Where in the metadata.
        sources: Where each value comes from, by the name of its field.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    datatype: Datatype
    layout: Layout
    channels: int
    height: int
    width: int
    batch_size: int | None
    color: Color
    output: str
    outputs: list[str]
    kind: Kind
    classes: int
    labels: list[str] | None
    labels_key: str | None
    sources: dict[str, Source]


def survey_model(model: bytes, wishes: Wishes) -> Findings:
    """Look at a model and run it on random pictures.

    Raises:
        ModelLoadError: No way to serve it was found; says what is wrong with the likeliest one.
    """
    graph = open_graph(model, SessionOptions("cpu", threads=1))
    if METADATA_KEY in graph.get_modelmeta().custom_metadata_map:
        raise ModelLoadError(
            "This is a file of 'adaresnet export', which says all about itself.",
            hint="'adaresnet publish' puts it into a repository.",
        )
    outputs = float_outputs(graph)
    first_error: ModelLoadError | None = None
    for config in _candidates(graph, [wishes.output] if wishes.output else outputs, wishes):
        try:
            raw = raw_graph(graph, config)
            return _findings(raw, try_pictures(raw), outputs, wishes)
        except ModelLoadError as error:
            first_error = first_error or error
    assert first_error is not None
    raise first_error


def _findings(
    raw: RawGraph, scores: NDArray[np.float32], outputs: list[str], wishes: Wishes
) -> Findings:
    classes = max(2, scores.shape[1])
    labels, key = labels_in_metadata(raw.graph.get_modelmeta().custom_metadata_map, classes)
    return Findings(
        **vars(raw.input),
        color=raw.preprocessing.color,
        output=raw.output,
        outputs=outputs,
        kind=wishes.kind or ("probabilities" if are_probabilities(scores) else "logits"),
        classes=classes,
        labels=labels,
        labels_key=key,
        sources=_input_sources(raw.graph, raw.input, wishes)
        | {
            "output": _source(wishes.output, known=len(outputs) == 1),
            "kind": _source(wishes.kind, known=False, otherwise=_kind_source(scores)),
        },
    )


def _candidates(graph: Any, outputs: Sequence[str], wishes: Wishes) -> Iterator[ModelConfig]:
    """Every way to serve a graph that it allows, likeliest first."""
    given = read_input(graph)
    ways: Sequence[Layout | None] = [wishes.layout] if wishes.layout else layouts(given.shape)
    colors: list[Color | None] = [wishes.color] if wishes.color else [None, "grey"]
    known = wishes.batch_size or given.shape[0]
    batches = [wishes.batch_size] if known else [None, 1]
    for side, layout, color, output, batch in itertools.product(
        _SIDES, ways or [None], colors, outputs, batches
    ):
        height, width = _stated_sides(given.shape, layout)
        if side != _SIDES[0] and (height or wishes.height) and (width or wishes.width):
            return  # other sides change nothing
        yield ModelConfig(
            input=InputConfig(
                layout=layout,
                height=wishes.height or (None if height else side),
                width=wishes.width or (None if width else side),
                batch_size=batch,
            ),
            # Pixels of uint8 are not normalised, and a graph's own channels decide over an order.
            normalization=NormalizationConfig(color=color),
            output=OutputConfig(name=output, kind="logits"),
        )


def _stated_sides(
    shape: tuple[int | None, ...], layout: Layout | None
) -> tuple[int | None, int | None]:
    """Height and width that the graph states; None where it takes any."""
    height, width = shape[1:3] if layout == "NHWC" else shape[2:4]
    return height, width


def _input_sources(graph: Any, fitted: FittedInput, wishes: Wishes) -> dict[str, Source]:
    shape = read_input(graph).shape
    height, width = _stated_sides(shape, fitted.layout)
    usual: Source = "assumed" if fitted.height == _SIDES[0] else "run"
    channels = shape[3 if fitted.layout == "NHWC" else 1]
    return {
        "name": "graph",
        "datatype": "graph",
        "layout": _source(wishes.layout, known=len(layouts(shape)) == 1, otherwise="run"),
        "height": _source(wishes.height, known=height is not None, otherwise=usual),
        "width": _source(wishes.width, known=width is not None, otherwise=usual),
        "batch_size": _source(wishes.batch_size, known=shape[0] is not None, otherwise="run"),
        "color": _source(wishes.color, known=channels == 1),
    }


def _kind_source(scores: NDArray[np.float32]) -> Source:
    # A single value between 0 and 1 may be a logit all the same.
    return "assumed" if scores.shape[1] == 1 and are_probabilities(scores) else "run"


def _source(wish: object, *, known: bool, otherwise: Source = "assumed") -> Source:
    if known:
        return "graph"
    return "given" if wish is not None else otherwise
