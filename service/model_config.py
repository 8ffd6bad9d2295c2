"""``config.toml``: what a foreign ONNX file does not say about itself.

It lies beside the model's versions and holds for all of them, or beside one file and holds for that
one. Fields have the names of ``service.metadata`` where they mean the same. What the graph says
need not be repeated; what is written must fit it.
"""

from __future__ import annotations

import tomllib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from service.metadata import Resize

CONFIG_FILE = "config.toml"

Datatype = Literal["uint8", "float16", "float32", "float64"]
Layout = Literal["NCHW", "NHWC"]
Color = Literal["rgb", "bgr", "grey"]
Kind = Literal["logits", "probabilities"]
Side = Annotated[int, Field(ge=1, le=4096)]
BatchSize = Annotated[int, Field(ge=1, le=4096)]


class _Table(BaseModel):
    # A misspelt key would else leave its default in force.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ResizeConfig(Resize):
    """How a picture of another size is brought to the network's size."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class InputConfig(_Table):
    """The graph's input tensor. All but a size that the graph leaves open may be left out."""

    name: str | None = None
    datatype: Datatype | None = None
    layout: Layout | None = None
    height: Side | None = Field(default=None, description="pixels")
    width: Side | None = Field(default=None, description="pixels")
    batch_size: BatchSize | None = Field(
        default=None, description="pictures of every run; others are filled up or cut in pieces"
    )
    resize: ResizeConfig = ResizeConfig()


class NormalizationConfig(_Table):
    """From a pixel in 0 to 255: ``(pixel / 255 * pixel_max - mean) / std`` a channel."""

    color: Color | None = Field(
        default=None, description="order of channels; default: rgb for 3, grey for 1"
    )
    pixel_max: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="what 255 becomes before mean and std"
    )
    mean: list[FiniteFloat] | None = Field(default=None, description="one value a channel")
    std: list[Annotated[FiniteFloat, Field(gt=0)]] | None = None


class OutputConfig(_Table):
    """The output tensor that holds the classes."""

    name: str | None = None
    kind: Kind = Field(description="probabilities are taken as they are, logits get a softmax")


class ModelConfig(_Table):
    """The whole file."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        default=None, description="of the model file; another file is refused"
    )
    description: str | None = None
    labels: list[str] | str | None = Field(
        default=None, description="one a class, or a text file beside this one with one a line"
    )
    input: InputConfig | None = None
    normalization: NormalizationConfig | None = None
    output: OutputConfig | None = None

    @model_validator(mode="after")
    def _labels_are_there(self) -> ModelConfig:
        if self.labels is not None and not self.labels:
            raise ValueError("labels is empty; leave it out to number the classes")
        return self


def parse_config(text: str) -> ModelConfig:
    """Read a ``config.toml``.

    Raises:
        ValueError: It is no TOML, or a field is unknown or has a value that is not allowed; the
            text is one sentence that names it.
    """
    try:
        return ModelConfig.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"this is no TOML: {error}.") from None
    except RecursionError:
        raise ValueError("its values are nested too deeply.") from None
    except ValidationError as error:
        raise ValueError(_sentence(error)) from None


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    # A union adds the kinds that it tried to the path.
    path = [str(part) for part in first["loc"] if part not in ("list[str]", "str")]
    field, value = ".".join(path), repr(first["input"])[:100]
    if first["type"] == "extra_forbidden":
        return f"{field} is no field; {_known(path[:-1])}."
    if first["type"] == "missing":
        return f"{field} is missing; {_known(path[:-1])}."
    if first["type"] == "model_type":
        return f"{field} is {value}, but it should be a table."
    message = first["msg"]
    if message.startswith("Input should "):
        return f"{field} is {value}, but it should {message.removeprefix('Input should ')}."
    return f"{message.removeprefix('Value error, ')}." if not field else f"{field}: {message}."


_TABLES: dict[str, type[BaseModel]] = {
    "": ModelConfig,
    "input": InputConfig,
    "input.resize": ResizeConfig,
    "normalization": NormalizationConfig,
    "output": OutputConfig,
}


def _known(path: list[str]) -> str:
    table = ".".join(path)
    where = f"[{table}]" if table else "the top of the file"
    return f"{where} takes {', '.join(_TABLES[table].model_fields)}"
