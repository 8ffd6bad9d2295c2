"""One training run's configuration: flags over a TOML recipe over defaults, with a stable hash."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    TomlConfigSettingsSource,
)

from service.metadata import Resize
from training.data.sizes import MAX_PX, MIN_PX

RECIPES = Path(__file__).parent / "recipes"


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
    out: Path = Field(default=Path("runs/latest"), description="folder of the run")
    resume: bool = Field(default=False, description="continue from the checkpoint in --out")
    start_from: Path | None = Field(
        default=None,
        description="run whose weights to begin with; default: fresh ones",
    )
    network: str = Field(default="resnet20", description="see training/networks/registry.py")
    width: int = Field(default=1, ge=1, le=16, description="multiple of the channel counts")
    shortcut: Literal["learned", "fixed"] = Field(
        default="learned", description="learn one scale a block, or keep --shortcut-init"
    )
    shortcut_init: float = Field(default=1.0, description="first value of every shortcut scale")
    image_px: int | None = Field(
        default=None,
        ge=MIN_PX,
        le=MAX_PX,
        description="image height and width; default: the data's own",
    )
    resize_rule: Literal["center_crop", "stretch"] = Field(
        default="center_crop", description="how pictures of another shape are brought to it"
    )
    epochs: int = Field(default=40, ge=1)
    batch_size: int = Field(default=128, ge=2)
    learning_rate: float = Field(default=0.1, gt=0, description="peak of the one-cycle schedule")
    warmup: float = Field(default=0.15, ge=0, lt=1, description="share of the steps before it")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Nesterov")
    weight_decay: float = Field(
        default=5e-4, ge=0, description="of convolution and classifier weights only"
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    shift_px: int = Field(default=4, ge=0, le=7, description="largest random shift")
    cutout_px: int = Field(
        default=0, ge=0, description="side of a square that is blanked in every image; 0: none"
    )
    flip: bool = Field(default=True, description="mirror half of the images left to right")
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of the forward pass; weights stay float32"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = Field(default=0, ge=0, le=2**31 - 1)

    @field_validator("shortcut_init")
    @classmethod
    def _finite(cls, value: float) -> float:
        if not math.isfinite(value):
            raise ValueError("must be a finite number")
        return value

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

    def portable(self) -> dict[str, str | int | float | bool | None]:
        """What decides the result: all but where things lie on this machine.

        What lies there is recorded beside it: the data's digest, and the run to start from.
        """
        values: dict[str, str | int | float | bool | None] = self.model_dump(
            mode="json", exclude={"out", "resume", "device", "data", "start_from"}
        )
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
