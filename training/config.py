"""One training run's configuration: flags over a TOML recipe over a preset, with a stable hash."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    TomlConfigSettingsSource,
)

from service.metadata import Resize
from training.data.sizes import MAX_PX, MIN_PX
from training.networks.presets import PRESETS
from training.networks.scale_options import ScaleOptions

RECIPES = Path(__file__).parent / "recipes"
# Where things lie and how they are run on this machine, but not what is computed.
_LOCAL = {
    "out",
    "resume",
    "device",
    "data",
    "start_from",
    "workers",
    "memory_gb",
    "tensorboard",
    "compile",
    "channels_last",
}

Value = str | int | float | bool | None


class TrainConfig(
    BaseSettings,
    frozen=True,
    extra="forbid",
    cli_kebab_case=True,
    cli_implicit_flags=True,
    cli_hide_none_type=True,
):
    """Train an adaptive residual network on labelled images."""

    data: str = Field(
        description="folder of Parquet files, folder with one folder of pictures a class,"
        " or a data set's name on the Hugging Face hub"
    )
    image_column: str | None = Field(default=None, description="default: the first of its type")
    label_column: str | None = Field(default=None, description="default: the first of its type")
    bad_files: Literal["refuse", "skip"] = Field(
        default="refuse", description="pictures that can't be read or have no usable label"
    )
    image_px: int | None = Field(
        default=None,
        ge=MIN_PX,
        le=MAX_PX,
        description="image height and width; default: the data's own",
    )
    resize_rule: Literal["center_crop", "stretch"] = Field(
        default="center_crop", description="how pictures of another shape are brought to it"
    )
    normalization: Literal["data", "unit"] = Field(
        default="data",
        description="mean and standard deviation of the training images, or pixels / 255 alone",
    )
    memory_gb: float | None = Field(
        default=None,
        gt=0,
        description="decoded sets larger than this are streamed; default: half of what is free",
    )
    workers: int = Field(default=2, ge=1, le=256, description="threads that decode streamed sets")

    out: Path = Field(default=Path("runs/latest"), description="folder of the run")
    resume: bool = Field(default=False, description="continue from the checkpoint in --out")
    start_from: Path | None = Field(
        default=None,
        description="run whose weights to begin with; default: fresh ones",
    )
    tensorboard: bool = Field(default=True, description="write TensorBoard events into --out")

    network: str = Field(default="resnet20", description="'adaresnet networks' lists them")
    width: float = Field(default=1, gt=0, le=16, description="multiple of the channel counts")
    shortcut: Literal["projection", "padding"] = Field(
        default="projection", description="where the shape changes: He et al.'s option B or A"
    )
    preset: str | None = Field(
        default=None,
        description=f"values for the scale flags by name: {', '.join(PRESETS)}; flags win",
    )
    granularity: Literal["fixed", "unified", "block_type", "stage", "block", "channel"] = Field(
        default="block", description="which blocks share one scale; fixed: none is learned"
    )
    placement: Literal["shortcut", "branch", "both"] = Field(
        default="shortcut", description="what is scaled: AdaResNet's w, ReZero's v, or both"
    )
    scale_init: Literal["zero", "one", "constant", "normal"] = Field(
        default="one", description="first value of every scale; zero by default under tanh"
    )
    scale_value: float | None = Field(
        default=None, description="the value for constant, the mean for normal"
    )
    scale_std: float = Field(default=0.05, ge=0, description="standard deviation for normal")
    scale_bound: Literal["none", "softplus", "tanh"] = Field(
        default="none", description="softplus keeps scales above 0, tanh between -1 and 1"
    )
    scale_learning_rate: float | None = Field(
        default=None, ge=0, description="peak for the scales; default: that of the weights"
    )
    scale_weight_decay: float = Field(
        default=0.0, ge=0, description="of scales: it pulls towards no skip"
    )
    zero_gamma: bool = Field(default=False, description="branches begin at zero")

    droppath: Literal["none", "stochastic_depth", "residual"] = Field(
        default="none", description="drop residual branches at random while training"
    )
    drop_rate: float = Field(default=0.2, ge=0, lt=1, description="of the last block")
    drop_schedule: Literal["linear", "uniform"] = Field(
        default="linear", description="rates grow from 0 with depth, or are the same everywhere"
    )
    drop_per: Literal["batch", "sample"] = Field(
        default="batch", description="one draw a batch, or one a sample (stochastic depth only)"
    )
    drop_rescale: bool | None = Field(
        default=None,
        description="divide kept branches by their rate of being kept; default: in stochastic"
        " depth only",
    )
    residual_trains: Literal["dropped", "random", "all"] = Field(
        default="dropped",
        description="residual droppath's second iteration trains what the first dropped; the"
        " controls are as many random branches, or everything",
    )
    residual_same_batch: bool = Field(
        default=False, description="the second iteration sees the first one's images again"
    )
    residual_ratio: int = Field(
        default=1, ge=1, description="first iterations before each second one"
    )
    residual_head: bool = Field(
        default=False, description="the second iteration trains the classifier as well"
    )
    residual_norm: Literal["batch", "frozen"] = Field(
        default="batch", description="statistics in the second iteration's frozen batch norms"
    )
    reestimate_norm: bool = Field(
        default=False, description="average batch norm statistics anew after the last epoch"
    )

    epochs: int = Field(default=40, ge=1)
    min_steps: int = Field(
        default=0, ge=0, description="small sets get more epochs until there are this many steps"
    )
    batch_size: int = Field(default=128, ge=2, description="images a step, of all processes")
    accumulate: int = Field(default=1, ge=1, description="parts that a batch is worked off in")
    last_batch: Literal["drop", "keep"] = Field(
        default="drop", description="what becomes of an epoch's last, smaller batch"
    )
    optimizer: Literal["sgd", "adamw", "keras_adam"] = Field(
        default="sgd", description="SGD with Nesterov momentum, AdamW, or Adam as Keras has it"
    )
    learning_rate: float = Field(default=0.1, gt=0, description="peak of the schedule")
    schedule: Literal["one_cycle", "cosine", "constant"] = Field(
        default="one_cycle", description="after the warm-up: linear or cosine to zero, or constant"
    )
    warmup: float = Field(default=0.15, ge=0, lt=1, description="share of the steps before it")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Nesterov")
    weight_decay: float = Field(
        default=5e-4, ge=0, description="of convolution and classifier weights only"
    )
    clip_norm: float | None = Field(default=None, gt=0, description="largest norm of a gradient")
    ema: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="decay a step of the averaged weights that are evaluated and exported; 0: none",
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    mixup: float = Field(default=0.0, ge=0, description="alpha of mixup; 0: none")
    cutmix: float = Field(default=0.0, ge=0, description="alpha of cutmix; 0: none")

    shift_px: int = Field(default=4, ge=0, description="largest random shift")
    crop_scale: float = Field(
        default=1.0, gt=0, le=1, description="smallest area of a random resized crop; 1: no crop"
    )
    flip: Literal["none", "random", "alternating"] = Field(
        default="random", description="mirror left to right: by chance, or every second epoch"
    )
    cutout_px: int = Field(
        default=0, ge=0, description="side of a square that is blanked in every image; 0: none"
    )

    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="of the forward pass; weights stay float32"
    )
    channels_last: bool = Field(default=True, description="memory layout of activations")
    compile: Literal["auto", "on", "off"] = Field(
        default="auto", description="compile the network; auto: on a GPU, for runs of some length"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = Field(default=0, ge=0, le=2**31 - 1)

    @model_validator(mode="before")
    @classmethod
    def _expand_preset(cls, values: Any) -> Any:
        name = values.get("preset")
        if name is not None:
            if name not in PRESETS:
                raise ValueError(f"no preset is named {name!r}; there are {', '.join(PRESETS)}")
            values = {**PRESETS[name], **values}
        if values.get("scale_bound") == "tanh" and "scale_init" not in values:
            values = {**values, "scale_init": "zero"}  # 1 is out of tanh's reach
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError("batch_size must be a multiple of accumulate")
        if self.droppath == "residual" and self.drop_per == "sample":
            raise ValueError(
                "residual droppath freezes whole branches, so it drops per batch: --drop-per batch"
            )
        _ = self.scales  # refuses first values out of their bound
        if self.residual_same_batch and self.residual_ratio > 1:
            raise ValueError("residual_same_batch needs residual_ratio 1")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read flags and the recipe; a run must not depend on the environment."""
        return init_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def resize(self) -> Resize:
        """How pictures are brought to the network's size, in training and in service."""
        return Resize(rule=self.resize_rule)

    @property
    def scales(self) -> ScaleOptions:
        """The learned weights of the joins."""
        return ScaleOptions(
            granularity=self.granularity,
            placement=self.placement,
            init=self.scale_init,
            value=self.scale_value,
            std=self.scale_std,
            bound=self.scale_bound,
        )

    @property
    def rescales(self) -> bool:
        """Droppath divides what it keeps by the rate of being kept."""
        if self.drop_rescale is None:
            return self.droppath == "stochastic_depth"
        return self.drop_rescale

    def steps_per_epoch(self, images: int, processes: int = 1) -> int:
        """Batches in a pass over so many images; every process needs a part of each."""
        whole, rest = divmod(images, self.batch_size)
        return whole + (rest >= processes and (self.last_batch == "keep" or whole == 0))

    def for_images(self, images: int) -> Self:
        """The configuration with as many epochs as ``min_steps`` asks for on so many images."""
        least = -(-self.min_steps // max(1, self.steps_per_epoch(images)))
        return self.model_copy(update={"epochs": max(self.epochs, least)})

    def portable(self) -> dict[str, Value]:
        """What decides the result: all but where things lie on this machine.

        What lies there is recorded beside it: the data's digest, and the run to start from.
        """
        values: dict[str, Value] = self.model_dump(mode="json", exclude=_LOCAL)
        return values

    def stable_hash(self) -> str:
        """SHA-256 of ``portable``, the same on every machine, 16 hex digits."""
        text = json.dumps(self.portable(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def recipe_path(recipe: str) -> Path:
    """Find a recipe by the name of a shipped one or by path.

    Raises:
        ValueError: There is none.
    """
    for path in (Path(recipe), RECIPES / f"{recipe}.toml"):
        if path.is_file():
            return path
    shipped = ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))
    raise ValueError(f"no recipe {recipe!r}: give a TOML file or one of {shipped}")


def load_config(argv: list[str], recipe: str | None, *, program: str) -> TrainConfig:
    """Read a run's configuration from the command line and a recipe.

    Raises:
        ValueError: The recipe is missing, or a value is not allowed.
        SystemExit: An unknown flag, or ``--help``.
    """
    path = recipe_path(recipe) if recipe else None

    class Loaded(TrainConfig, toml_file=path):
        __doc__ = TrainConfig.__doc__

    loaded = Loaded(_cli_parse_args=argv, _cli_prog_name=program)
    return TrainConfig.model_construct(**dict(loaded))
