"""Write the ``config.toml`` of a foreign model, and say of each line where it comes from."""

from __future__ import annotations

import json
from dataclasses import dataclass

from service.engine.survey import Findings, Source
from service.metadata import Resize

LABELS_FILE = "labels.txt"

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_WORDS: dict[Source, str] = {
    "graph": "from the graph",
    "run": "found by running it",
    "given": "given",
    "assumed": "ASSUMED: check",
}


@dataclass(frozen=True)
class Choices:
    """What the graph can't say, as far as the caller does. None: it is assumed."""

    description: str | None = None
    pixel_max: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    rule: str | None = None
    filter: str | None = None
    crop: float | None = None


@dataclass(frozen=True)
class Line:
    """One line: ``key = value  # source``; a table's heading has no value."""

    key: str
    value: str = ""
    words: str = ""

    def __str__(self) -> str:
        """As it stands in the file."""
        return f"{self.key} = {self.value}  # {self.words}" if self.value else f"\n[{self.key}]"


@dataclass(frozen=True)
class Draft:
    """A configuration, line by line."""

    lines: tuple[Line, ...]

    @property
    def assumed(self) -> list[Line]:
        """What the person who imports the model has to check."""
        return [line for line in self.lines if line.words.startswith(_WORDS["assumed"])]

    def text(self, heading: str) -> str:
        """The whole file."""
        return "\n".join([*(f"# {line}" for line in heading.splitlines()), *map(str, self.lines)])


def draft_config(found: Findings, choices: Choices, sha256: str, labels_from: str | None) -> Draft:
    """Write down what was found, given and assumed.

    Args:
        found: By looking at the graph.
        choices: By the caller.
        sha256: Of the model file.
        labels_from: Where the label file's lines come from; None: there is none.
    """
    lines = [Line("sha256", _toml(sha256), "of model.onnx; another file is refused")]
    if choices.description:
        lines.append(Line("description", _toml(choices.description), _WORDS["given"]))
    if labels_from:
        lines.append(Line("labels", _toml(LABELS_FILE), f"{found.classes}, {labels_from}"))
    lines.append(Line("input"))
    lines += [
        _found(found, key, value)
        for key in ("name", "datatype", "layout", "height", "width", "batch_size")
        if (value := getattr(found, key)) is not None
    ]
    lines.append(Line("input.resize"))
    lines += [
        _chosen(key, getattr(choices, key), getattr(Resize(), key))
        for key in ("rule", "filter", "crop")
    ]
    lines += _normalization(found, choices)
    lines += [Line("output"), _found(found, "output", found.output, "name")]
    lines.append(_found(found, "kind", found.kind))
    return Draft(tuple(lines))


def _normalization(found: Findings, choices: Choices) -> list[Line]:
    lines = [Line("normalization"), _found(found, "color", found.color)]
    if found.datatype == "uint8":  # pixels as they are
        return lines + [
            Line(key, _toml(value), _WORDS["given"])
            for key in ("pixel_max", "mean", "std")
            if (value := getattr(choices, key)) is not None
        ]
    mean, std = [0.0] * found.channels, [1.0] * found.channels
    words = f"{_WORDS['assumed']}, no normalisation"
    if found.channels == 3 and choices.pixel_max in (None, 1.0):
        # The order of ImageNet's values is that of the channels.
        step = -1 if found.color == "bgr" else 1
        mean, std = list(_IMAGENET_MEAN[::step]), list(_IMAGENET_STD[::step])
        words = f"{_WORDS['assumed']}, ImageNet's"
    if choices.mean or choices.std:  # who gives one means the other to be neutral
        mean, std = [0.0] * found.channels, [1.0] * found.channels
    return [
        *lines,
        _chosen("pixel_max", choices.pixel_max, 1.0),
        _chosen("mean", choices.mean, mean, words),
        _chosen("std", choices.std, std, words),
    ]


def _found(found: Findings, key: str, value: object, name: str = "") -> Line:
    words = _WORDS[found.sources[key]]
    if key == "output" and len(found.outputs) > 1:
        others = ", ".join(repr(output) for output in found.outputs if output != value)
        words += f"; the others are {_one_line(others)}"
    return Line(name or key, _toml(value), words)


def _chosen(key: str, value: object, usual: object, words: str = _WORDS["assumed"]) -> Line:
    return Line(key, _toml(usual if value is None else value), words if value is None else "given")


def _toml(value: object) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # A JSON text is a TOML text, but for one control character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
