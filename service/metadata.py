"""What a model file says about itself: the only contract between training and service.

One JSON document under ``METADATA_KEY`` in the ONNX file's ``metadata_props``. This file imports
pydantic and nothing else of the project, so both sides, and any other tool, can read it.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, model_validator

# Where a model lies: <repository>/<name>/<version>/model.onnx, with a name that a URL and a log
# line take as it is.
MODEL_FILE = "model.onnx"
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

METADATA_KEY = "adaresnet.metadata"
SCHEMA_VERSION: Literal[1] = 1

Precision = Literal["fp32", "fp16", "int8"]

INPUT_NAME = "images"
LOGITS_NAME = "logits"
PROBABILITIES_NAME = "probabilities"


class _Record(BaseModel):
    # Unknown keys are ignored, so that a reader one minor schema older still serves the file.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Resize(_Record):
    """How a picture of another size is brought to the network's size."""

    rule: Literal["center_crop", "stretch"] = Field(
        default="center_crop",
        description="Cut the largest centred part of the right shape, or change the shape.",
    )
    filter: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    crop: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="With center_crop, the share of that part's sides which is kept.",
    )


class Input(_Record):
    """The input tensor: plain RGB pixels [N, height, width, 3]."""

    datatype: Literal["uint8"] = "uint8"
    layout: Literal["NHWC"] = "NHWC"
    height: int = Field(ge=1, le=4096, description="pixels")
    width: int = Field(ge=1, le=4096, description="pixels")
    resize: Resize = Resize()

    @property
    def pixel_bytes(self) -> int:
        """Memory of one image's pixels."""
        return self.height * self.width * 3


class Normalization(_Record):
    """The preprocessing inside the graph: ``(pixel / 255 - mean) / std`` a channel."""

    color: Literal["rgb", "grey"] = Field(description="grey: ITU-R 601 luma of the RGB input")
    mean: list[float] = Field(description="one value a channel, of pixels scaled to [0, 1]")
    std: list[float]


class ShortcutScale(_Record):
    """One learned weight of a join, as it was before folding."""

    block: str = Field(examples=["stage1_block1"])
    shortcut: Literal["identity", "projection"] = Field(description="kind of the block's shortcut")
    placement: Literal["shortcut", "branch"] = Field(
        default="shortcut", description="the term that it scales"
    )
    value: float | list[float] = Field(description="one value, or one a channel")


class Architecture(_Record):
    """The trained network."""

    network: str = Field(examples=["resnet20"])
    width: float = Field(gt=0, description="multiple of the published channel counts")
    parameters: int = Field(ge=1)
    shortcut_scales: list[ShortcutScale]


class TrainingRun(_Record):
    """Where the weights come from."""

    data: str
    data_digest: str = Field(description="of decoded pixels and labels, both splits")
    train_images: int
    config: dict[str, str | int | float | bool | None]
    config_hash: str
    seed: int
    epochs: int
    started_from: str | None = Field(description="run that gave the first weights, if any")
    device: str
    duration_s: float
    versions: dict[str, str]


class Accuracy(_Record):
    """Top-1 accuracy, measured on the exported file through ONNX Runtime."""

    data: str
    split: str
    images: int = Field(ge=1)
    top1: float = Field(ge=0, le=1)


class Verification(_Record):
    """What the exporter compared before it wrote the file."""

    images: int = Field(ge=1, description="real images on which both sides were compared")
    max_abs_difference: float = Field(ge=0, description="largest logit difference to PyTorch")
    logit_range: float = Field(ge=0, description="largest minus smallest PyTorch logit")
    tolerance: float = Field(gt=0, description="largest difference allowed, of the logit range")
    top1_agreement: float = Field(ge=0, le=1)
    reference_accuracy: float | None = Field(
        default=None, ge=0, le=1, description="top-1 accuracy of PyTorch in float32 on these images"
    )
    batch_difference: float | None = Field(
        default=None,
        ge=0,
        description="largest logit difference between images run one by one and 64 at a time",
    )
    rounded_difference: float | None = Field(
        default=None,
        ge=0,
        description="fp16: largest logit difference to PyTorch when every activation is rounded to"
        " float16, as a GPU does; a CPU computes in float32",
    )
    rounded_agreement: float | None = Field(default=None, ge=0, le=1, description="likewise")
    calibration_images: int | None = Field(
        default=None, ge=1, description="int8: training images that the ranges come from"
    )
    forced: str | None = Field(
        default=None, description="the bound that is not kept, where the export was forced"
    )
    operators_before: dict[str, int] = Field(description="the PyTorch network, traced")
    operators_after: dict[str, int] = Field(description="the exported graph")
    operators_plain_twin: dict[str, int] = Field(description="the same network with every w = 1")
    versions: dict[str, str] = Field(description="of what wrote and ran the graph")


class GoldenImage(_Record):
    """An encoded picture and the logits that PyTorch gave for it."""

    media_type: str
    data: Base64Bytes
    logits: list[float]
    label: str | None = Field(default=None, description="PyTorch's first class")


class GoldenSet(_Record):
    """Pictures that the service decodes and runs before it calls the version ready."""

    tolerance: float = Field(gt=0, description="largest logit difference allowed, absolute")
    images: list[GoldenImage] = Field(min_length=1)


class ModelMetadata(_Record):
    """Everything that is needed to serve an image classifier, and where it comes from."""

    schema_version: Literal[1] = SCHEMA_VERSION
    description: str = ""
    labels: Annotated[list[str], Field(min_length=1)]
    input: Input
    normalization: Normalization | None = None
    architecture: Architecture | None = None
    training: TrainingRun | None = None
    accuracy: Accuracy | None = None
    verification: Verification | None = None
    golden: GoldenSet | None = None
    precision: Precision | None = Field(
        default=None, description="of weights and activations; older files don't state it: fp32"
    )
    file_digest: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of the whole file with these 64 digits as zeros",
    )

    @model_validator(mode="after")
    def _golden_images_match_labels(self) -> Self:
        for index, image in enumerate(self.golden.images if self.golden else ()):
            if len(image.logits) != len(self.labels):
                raise ValueError(
                    f"golden image {index} has {len(image.logits)} logits"
                    f" for {len(self.labels)} labels"
                )
            first = self.labels[image.logits.index(max(image.logits))]
            if image.label not in (None, first):
                raise ValueError(
                    f"golden image {index} is {image.label!r}, and by the labels {first!r}: they"
                    " were changed or reordered"
                )
        return self
