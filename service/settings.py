"""Every setting of the service: flags over environment over an optional TOML file over defaults."""

from __future__ import annotations

import os
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsError,
    TomlConfigSettingsSource,
)

from service.access_settings import AccessSettings, ConnectionSettings
from service.engine.devices import parse_devices
from service.environment import ENV_PREFIX as ENV_PREFIX
from service.metadata import MODEL_NAME
from service.operation_settings import OperationSettings
from service.setting_names import nearest, refused_flags

MAX_TIMEOUT_S = 3600.0
_REPOSITORY = Path(__file__).parent.parent / "models"
_PACKAGED = Path(__file__).parent / "shipped_models"
# Other names of flags, as the YAML of KServe's runtimes writes them.
_KSERVE_FLAGS: dict[str, str | list[str]] = {
    "models": ["model-dir", "model_dir"],
    "model-name": ["model_name"],
    "port": ["http-port", "http_port"],
}
_CONTAINER_FLAGS = ("--model-dir", "--model_dir", "--http-port", "--http_port")
_NEVER_EMPTY = (
    "default_model",
    "models",
    "tensorrt_cache",
    "api_keys_file",
    "tls_certificate",
    "tls_key",
)


def _checked_device(text: str) -> str:
    try:
        parse_devices(text)
    except ValueError as error:
        # Not as a ValueError, whose message would begin with "Value error".
        raise PydanticCustomError("device", "{reason}", {"reason": str(error)}) from error
    return text


class Environment(EnvSettingsSource):
    """The environment, without what Kubernetes says about a Service named "adaresnet"."""

    def __call__(self) -> dict[str, Any]:
        """Read it."""
        found = super().__call__()
        return {
            name: value
            for name, value in found.items()
            if not (name == "port" and str(value).startswith(("tcp://", "udp://")))
        }


class Settings(
    AccessSettings,
    ConnectionSettings,
    OperationSettings,
    frozen=True,
    extra="forbid",
    allow_inf_nan=False,
    env_prefix=ENV_PREFIX,
    cli_exit_on_error=False,
    cli_kebab_case=True,
    cli_implicit_flags=True,
    cli_hide_none_type=True,
    cli_shortcuts=_KSERVE_FLAGS,
):
    """Serve a model repository over HTTP.

    Every flag can also be set in the environment (--max-batch-size is ADARESNET_MAX_BATCH_SIZE) and
    in a TOML file named by ADARESNET_CONFIG (max_batch_size = 64). A flag wins over the
    environment, the environment over the file.
    """

    host: str = Field(
        default="127.0.0.1",
        description="address to listen on; 0.0.0.0 for all, as with --model_dir or --http_port",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="0 takes any free port")
    workers: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="processes that share the port and the CPUs, each with all models",
    )
    models: Path | None = Field(
        default=None,
        description="model repository, models/<name>/<version>/model.onnx;"
        " default: ./models, else the models that come with the package",
    )
    model_name: str | None = Field(
        default=None,
        pattern=f"^(?:{MODEL_NAME.pattern})$",
        description="serves a folder of one model, <version>/model.onnx or model.onnx, by this"
        " name",
    )
    default_model: str | None = Field(
        default=None, description="answers requests that name no model; default: the first by name"
    )
    device: Annotated[str, AfterValidator(_checked_device)] = Field(
        default="auto",
        description="auto, cpu, cuda or tensorrt; GPUs may be numbered and listed, as in"
        " cuda:0,cuda:1; a named one refuses to start where it can't run, auto falls back",
    )
    threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="CPU threads of one run; 0: one, or all for a single image where a"
        " measurement at load says that this is faster",
    )
    instances: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="runs at once, on each GPU or the CPU; 0: two on a GPU, as many as there are"
        " CPUs",
    )
    max_batch_size: int = Field(
        default=0, ge=0, le=4096, description="images of one run; 0: measured at load"
    )
    gpu_memory_mib: int = Field(
        default=0,
        ge=0,
        le=2**20,
        description="GPU memory that one instance of a model may take; 0: no limit",
    )
    cuda_graphs: bool = Field(
        default=False, description="replay each batch size as one CUDA graph (docs/gpu.md)"
    )
    tensorrt_fp16: bool = Field(default=False, description="TensorRT may compute in half precision")
    tensorrt_cache: Path | None = Field(
        default=None,
        description="folder of the engines of 'adaresnet build-engines'; default:"
        " adaresnet/tensorrt in the user's cache folder",
    )
    max_queue_delay_ms: float = Field(
        default=0, ge=0, le=10_000, description="how long an image may wait for its batch to fill"
    )
    max_queue_size: int = Field(
        default=8192, ge=1, description="images that may be in work at once before 503"
    )
    max_pixel_bytes: int = Field(
        default=2**30, ge=2**20, description="memory for their decoded pixels before 503"
    )
    max_body_bytes: int = Field(
        default=2**30, ge=1, description="largest request body; large ones are never held whole"
    )
    max_buffer_bytes: int = Field(
        default=64 * 2**20,
        ge=1,
        description="largest picture, part of a form or JSON document, which are held whole",
    )
    max_held_bytes: int = Field(
        default=2**30,
        ge=2**20,
        description="memory for what is held of the bodies and answers of all requests, without the"
        " first MiB of each, before 503",
    )
    max_images: int = Field(default=100_000, ge=1, description="images of one request")
    max_image_pixels: int = Field(
        default=40_000_000, ge=1, description="width x height of an image"
    )
    request_timeout_s: float = Field(
        default=30.0,
        gt=0,
        le=MAX_TIMEOUT_S,
        description="seconds until an unanswered request gets 504; the header X-Request-Timeout"
        " says otherwise for one request",
    )
    decode_timeout_s: float = Field(
        default=5.0,
        ge=0,
        description="seconds of processor time that decoding one image may take; 0: any",
    )
    decoder: Literal["auto", "pillow"] = Field(
        default="auto",
        description="auto: a faster decoder for small plain JPEGs, with exactly Pillow's pixels",
    )
    jpeg_draft: bool = Field(
        default=False,
        description="decode large JPEGs at a fraction of their size: faster, with other pixels",
    )
    receipts: bool = Field(
        default=True,
        description="say in the headers of an answer which model file gave it and how long"
        " decoding, waiting and running took",
    )
    access_log: bool = Field(default=True, description="write a line a request to the log")
    repository_poll_s: float = Field(
        default=2.0, ge=0, description="seconds between looks for new models; 0: never look"
    )
    probe_models: bool = Field(
        default=True,
        description="try every model file in a process of its own before it is loaded here",
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator(*_NEVER_EMPTY, mode="before")
    @classmethod
    def _is_not_empty(cls, value: object) -> object:
        # As templates write it. As a path it would be the working folder, as a name no model's.
        if value == "":
            raise PydanticCustomError("empty", "it is empty; leave it out")
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
        """Read flags, environment and TOML file, in this order of precedence."""
        return init_settings, Environment(settings_cls), TomlConfigSettingsSource(settings_cls)

    @property
    def repository(self) -> Path:
        """The model repository that the settings mean."""
        return self.models or default_repository()


def default_repository() -> Path:
    """``./models`` where it holds models, else the models that come with the package."""
    here = Path("models")
    places = (here, _PACKAGED, _REPOSITORY)
    return next((path for path in places if any(path.glob("*/*/model.onnx"))), here)


def load_settings(argv: list[str], *, program: str) -> Settings:
    """Read the settings from flags, environment and the TOML file in ``ADARESNET_CONFIG``.

    Raises:
        ValueError: A value is not allowed, a flag or a key of the TOML file is unknown, or the file
            can't be read; in one line.
        SystemExit: ``--help``.
    """
    config = os.environ.get(ENV_PREFIX + "CONFIG")
    if config and not Path(config).is_file():
        raise ValueError(f"{ENV_PREFIX}CONFIG names {config!r}, which is no file")

    class Loaded(Settings, toml_file=config):
        __doc__ = Settings.__doc__

    try:
        loaded = Loaded(_cli_parse_args=argv, _cli_prog_name=program)
    except ValidationError as error:
        raise ValueError(_explain(error, config)) from None
    except SettingsError as error:
        raise ValueError(refused_flags(str(error), Settings.model_fields)) from None
    except (TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{config} is no TOML: {error}") from None
    except OSError as error:
        raise ValueError(f"{config} can't be read: {error.strerror}") from None
    values = dict(loaded)
    in_container = any(word.partition("=")[0] in _CONTAINER_FLAGS for word in argv)
    if in_container and "host" not in loaded.model_fields_set:
        values["host"] = "0.0.0.0"  # noqa: S104, KServe reaches its containers from outside
    return Settings.model_construct(**values)


def _explain(error: ValidationError, config: str | None) -> str:
    """One line: the setting, its value, and what is allowed."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        meant = nearest(name, Settings.model_fields)
        guess = f"; did you mean {meant}?" if meant else ""
        return f"{config}: there is no setting {name}{guess}"
    return f"{name} is {first['input']!r}: {first['msg']}"
