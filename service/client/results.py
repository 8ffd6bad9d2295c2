"""What the service answers, as frozen objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from service.client.errors import ImageError


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class of one image.

    Attributes:
        class_id: Index of the class in the model's ``classes``.
        label: Its name.
        probability: 0 to 1.
    """

    class_id: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Result:
    """The answer for one image.

    Attributes:
        index: Place of the image in the call, from 0.
        source: Its path or file name, where it has one.
        model: Name of the model that answered; None where no image of its request could be sent.
        version: Of that model.
        request_id: Of its request in the server's log.
        error: Why there are no predictions; None where there are.
    """

    index: int
    source: str | None
    model: str | None
    version: int | None
    request_id: str | None
    error: ImageError | None
    _predictions: tuple[Prediction, ...]

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """The most probable classes, ``top_k`` of them, best first.

        Raises:
            ImageError: There are none; the same error as ``error``.
        """
        if self.error is not None:
            raise self.error
        return self._predictions

    @property
    def top(self) -> Prediction:
        """The most probable class.

        Raises:
            ImageError: There is none; the same error as ``error``.
        """
        return self.predictions[0]


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One version of a model; ``error`` says why it can't be served."""

    version: int
    ready: bool
    digest: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class InputInfo:
    """What a model takes once images are decoded; ``height`` and ``width`` in pixels."""

    height: int
    width: int
    datatype: str
    layout: str
    resize: str


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Top-1 accuracy (0 to 1), on how many images of which data and split."""

    data: str
    split: str
    images: int
    top1: float


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model; what is unknown while it is not ready is None or empty.

    Attributes:
        name: To be given as ``model``.
        ready: It can answer.
        default_version: The version that answers when none is asked for.
        versions: All of them, the lowest first.
        description: In its author's words.
        classes: Labels; the index of one is its ``class_id``.
        input: Size and kind of the pixels.
        accuracy: As it was measured at export.
        execution_provider: What runs it, such as ``CPUExecutionProvider``.
        raw: Everything that the server says of it, as in ``GET /v1/models/{name}``.
    """

    name: str
    ready: bool
    default_version: int | None
    versions: tuple[VersionInfo, ...]
    description: str | None
    classes: tuple[str, ...]
    input: InputInfo | None
    accuracy: Accuracy | None
    execution_provider: str | None
    raw: Mapping[str, Any] = field(repr=False, compare=False)


def read_model(row: Mapping[str, Any]) -> ModelInfo:
    """Read one model of an answer.

    Raises:
        KeyError, TypeError: It is none of this service's.
    """
    size, accuracy = row.get("input"), row.get("accuracy")
    return ModelInfo(
        name=row["name"],
        ready=row["ready"],
        default_version=row.get("default_version"),
        versions=tuple(
            VersionInfo(each["version"], each["ready"], each.get("digest"), each.get("error"))
            for each in row["versions"]
        ),
        description=row.get("description"),
        classes=tuple(row.get("classes") or ()),
        # Field by field: a later server may say more.
        input=size and InputInfo(**{name: size[name] for name in InputInfo.__slots__}),
        accuracy=accuracy and Accuracy(**{name: accuracy[name] for name in Accuracy.__slots__}),
        execution_provider=row.get("execution_provider"),
        raw=row,
    )


def read_predictions(rows: list[dict[str, Any]]) -> tuple[Prediction, ...]:
    """Read the classes of one image.

    Raises:
        KeyError, TypeError: They are none of this service's.
    """
    return tuple(Prediction(row["class_id"], row["label"], row["probability"]) for row in rows)
