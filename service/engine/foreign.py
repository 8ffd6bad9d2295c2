"""A foreign graph behind the same face as our own: plain RGB pixels in, logits out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.errors import ModelLoadError
from service.engine.preprocess import Preprocessing, pixel_table
from service.engine.signature import FittedInput, fit_input, float_outputs, misfit, read_input
from service.metadata import Input, ModelMetadata, Resize
from service.model_config import (
    Color,
    InputConfig,
    Kind,
    ModelConfig,
    NormalizationConfig,
)

MAX_CLASSES = 1_000_000
_TRIAL_IMAGES = 3
_COLORS: dict[int, tuple[Color, ...]] = {1: ("grey",), 3: ("rgb", "bgr")}
_TINY = np.finfo(np.float32).tiny
# Half precision has 11 bits; a thousand of them summed stay within this.
_SUM_TOLERANCE = 1e-2


@dataclass(frozen=True)
class RawGraph:
    """A graph with its input settled: pictures in, whatever one output gives out.

    Attributes:
        graph: The ONNX Runtime session.
        input: Its input.
        preprocessing: From pixels to that input.
        output: Name of the output.
    """

    graph: Any
    input: FittedInput
    preprocessing: Preprocessing
    output: str

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run uint8 [N, H, W, 3]; returns float32 [N, columns]."""
        size = self.input.batch_size
        if size is None:
            return self._run(self.preprocessing(images))
        pieces = []
        for start in range(0, len(images), size):
            piece = self.preprocessing(images[start : start + size])
            count = len(piece)
            if count < size:
                missing = np.zeros((size - count, *piece.shape[1:]), piece.dtype)
                piece = np.concatenate([piece, missing])
            pieces.append(self._run(piece)[:count])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _run(self, tensor: NDArray[np.generic]) -> NDArray[np.float32]:
        (out,) = self.graph.run([self.output], {self.input.name: tensor})
        count = len(tensor)
        out = np.asarray(out, np.float32)
        is_batch = out.ndim > 0 and out.shape[0] == count
        if (count > 1 and not is_batch) or sum(size != 1 for size in out.shape[is_batch:]) > 1:
            raise ModelLoadError(
                f"The graph's output {self.output!r} has the shape {list(out.shape)} for"
                f" {count} pictures; a classifier gives [N, classes].",
                hint="Choose another output, or set input.batch_size = 1.",
            )
        return out.reshape(count, -1)


class ForeignGraph:
    """A graph that was fitted to its configuration and tried on random pictures.

    Attributes:
        metadata: What the rest of the engine needs to know, as if the file said it.
        batch_size: Pictures of every run; None: any number.
    """

    def __init__(self, graph: Any, config: ModelConfig) -> None:
        """Fit and try.

        Raises:
            ModelLoadError: Graph and configuration don't fit, or the graph is no image classifier.
        """
        if config.output is None:
            raise misfit(
                "output.kind is missing; 'logits' or 'probabilities' says what the graph gives."
            )
        self._raw = raw_graph(graph, config)
        self.batch_size = self._raw.input.batch_size
        self._kind: Kind = config.output.kind
        scores = try_pictures(self._raw)
        self._classes = max(2, scores.shape[1])
        _check_kind(scores, self._kind)
        size = self._raw.input
        self.metadata = ModelMetadata(
            description=config.description or "",
            labels=self._labels(config.labels),
            input=Input(
                height=size.height,
                width=size.width,
                resize=Resize(**(config.input or InputConfig()).resize.model_dump()),
            ),
        )

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run uint8 [N, H, W, 3]; returns logits and probabilities, float32 [N, C]."""
        scores = self._raw.run(images)
        if self._kind == "probabilities":
            if scores.shape[1] == 1:
                scores = np.concatenate([1 - scores, scores], axis=1)
            # The logits whose softmax these are.
            return np.log(np.maximum(scores, _TINY)), scores
        if scores.shape[1] == 1:  # softmax of [0, z] is [1 - sigmoid(z), sigmoid(z)]
            scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores, powers / powers.sum(axis=1, keepdims=True)

    def _labels(self, labels: list[str] | str | None) -> list[str]:
        if not isinstance(labels, list):
            return [str(index) for index in range(self._classes)]
        if len(labels) != self._classes:
            raise misfit(f"labels has {len(labels)} entries; the graph has {self._classes}.")
        return labels


def raw_graph(graph: Any, config: ModelConfig) -> RawGraph:
    """Settle input, preprocessing and output.

    Raises:
        ModelLoadError: Graph and configuration don't fit.
    """
    normalization = config.normalization
    color = normalization.color if normalization else None
    fitted = fit_input(read_input(graph), config.input or InputConfig(), color)
    if fitted.datatype != "uint8" and normalization is None:
        raise misfit(
            f"[normalization] is missing; the graph takes {fitted.datatype}, so it must say how"
            " pixels are scaled, for example mean = [0.5], std = [0.5]."
        )
    preprocessing = _preprocessing(fitted, normalization or NormalizationConfig())
    outputs = float_outputs(graph)
    name = config.output.name if config.output else None
    if name is None and len(outputs) > 1:
        raise misfit(f"output.name is missing; the graph has {', '.join(map(repr, outputs[:8]))}.")
    if name is not None and name not in outputs:
        raise misfit(
            f"output.name is {name!r}, but the graph has {', '.join(map(repr, outputs[:8]))}."
        )
    return RawGraph(graph, fitted, preprocessing, name or outputs[0])


def try_pictures(raw: RawGraph) -> NDArray[np.float32]:
    """Run random pictures, together and one alone; returns float32 [N, columns], all finite.

    Raises:
        ModelLoadError: The graph fails on them, or what it gives can't be classes.
    """
    size = raw.input
    shape = (_TRIAL_IMAGES, size.height, size.width, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    alone = _try(raw, images[:1])
    try:
        scores = _try(raw, images)
    except ModelLoadError as error:
        raise misfit(
            f"input.batch_size is missing; the graph runs one picture but not {_TRIAL_IMAGES} at"
            " once: 1 would be right."
        ) from error
    if scores.shape[1] != alone.shape[1]:
        raise misfit("input.batch_size is missing; the graph mixes up pictures: 1 would be right.")
    if not scores.shape[1] or scores.shape[1] > MAX_CLASSES:
        raise ModelLoadError(
            f"The graph gives {scores.shape[1]} values a picture; 1 to {MAX_CLASSES} can be"
            " classes.",
            hint="Only image classifiers can be served.",
        )
    if not np.isfinite(scores).all():
        raise ModelLoadError(
            f"The graph's output {raw.output!r} is not finite on random pictures.",
            hint="Check the model, and mean and std in config.toml.",
        )
    return scores


def are_probabilities(scores: NDArray[np.float32]) -> bool:
    """Whether rows [N, columns] are distributions; a single column must only be in [0, 1]."""
    if scores.min() < -_SUM_TOLERANCE or scores.max() > 1 + _SUM_TOLERANCE:
        return False
    return scores.shape[1] == 1 or bool(np.abs(scores.sum(axis=1) - 1).max() <= _SUM_TOLERANCE)


def _try(raw: RawGraph, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    try:
        return raw.run(images)
    except ModelLoadError:
        raise
    except Exception as error:  # ONNX Runtime's own classes share no base
        first = str(error).partition("\n")[0][:300]
        raise ModelLoadError(
            f"The graph fails on a picture of {raw.input.height} x {raw.input.width}: {first}",
            hint="Check the size in config.toml, and the model.",
        ) from error


def _check_kind(scores: NDArray[np.float32], kind: Kind) -> None:
    single = scores.shape[1] == 1
    if kind == "probabilities" and not are_probabilities(scores):
        found = "goes beyond 0 to 1" if single else f"sums to {scores[0].sum():.4g}"
        raise misfit(
            f"output.kind is 'probabilities', but the output {found} on a random picture;"
            " 'logits' would be right."
        )
    # Another softmax over probabilities makes all classes look alike. A single value may be either.
    if kind == "logits" and not single and are_probabilities(scores):
        raise misfit(
            "output.kind is 'logits', but the output sums to 1 on random pictures;"
            " 'probabilities' would be right."
        )


def _preprocessing(size: FittedInput, given: NormalizationConfig) -> Preprocessing:
    allowed = _COLORS[size.channels]
    color = given.color or allowed[0]
    if color not in allowed:
        raise misfit(
            f"normalization.color is {color!r}, but the graph takes {size.channels} channels;"
            f" {allowed[0]!r} would be right."
        )
    plain = size.datatype == "uint8"
    for field in ("mean", "std") if not plain else ():
        values = getattr(given, field)
        if values is not None and len(values) != size.channels:
            raise misfit(
                f"normalization.{field} has {len(values)} values, but the graph takes"
                f" {size.channels} channels."
            )
    stated = {"mean", "std", "pixel_max"} & given.model_fields_set
    if plain and stated:
        raise misfit(
            f"normalization.{min(stated)} is given, but the graph takes uint8, which are pixels"
            " as they are; leave it out."
        )
    return Preprocessing(
        size.layout,
        color,
        pixel_table(
            size.datatype,
            255.0 if plain else given.pixel_max,
            given.mean or [0.0] * size.channels,
            given.std or [1.0] * size.channels,
        ),
    )
