"""Options that several commands share; each has its twin in the environment."""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from service.client import Client
from service.engine.devices import parse_devices
from service.environment import ENV_PREFIX

if TYPE_CHECKING:
    from service.settings import Settings


_QUEUE = 4096  # images; more than a command has in work at once


def add_model_source(parser: argparse.ArgumentParser) -> None:
    """Add --url or --models, --api-key, --device and --json."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--url", help="ask this server instead of loading models here")
    source.add_argument("--models", help="model repository")
    parser.add_argument("--api-key", metavar="KEY", help="for --url; ADARESNET_API_KEY hides it")
    parser.add_argument("--device", help="where models run: auto, cpu, cuda or tensorrt")
    parser.add_argument("--json", action="store_true", help="print JSON")


def environment(*names: str) -> dict[str, str | bool]:
    """Defaults for flags from their twins in the environment: --top-k is ADARESNET_TOP_K.

    argparse converts and checks a default that is a string just as it would the flag's value.
    """
    found: dict[str, str | bool] = {}
    for name in (*names, "json"):
        value = os.environ.get(ENV_PREFIX + name.upper())
        if value is not None:
            found[name] = value.lower() in ("1", "true", "yes", "on") if name == "json" else value
    return found


def url_of(args: argparse.Namespace) -> str | None:
    """The server that --url or its twin in the environment names; --models goes before the twin."""
    url: str | None = args.url
    return url or (None if args.models else os.environ.get(ENV_PREFIX + "URL"))


def client_of(args: argparse.Namespace, url: str) -> Client:
    """A client for the command, to be closed.

    Raises:
        ValueError: The URL, or the key, can't be one.
    """
    return Client(url, api_key=args.api_key)


def local_settings(args: argparse.Namespace) -> Settings:
    """Settings for an engine in this process: flags over what ``adaresnet serve`` would read.

    Raises:
        ValueError: A value is not allowed, or the model repository is no folder.
    """
    from service.settings import load_settings

    flags = [
        word
        for name in ("models", "device")
        if (value := getattr(args, name)) is not None
        for word in (f"--{name}", value)
    ]
    settings = load_settings(flags, program="adaresnet")
    if not settings.repository.is_dir():
        raise ValueError(f"models: {settings.repository} is no folder")
    # A command has one request, which may take its time, and no others that a bad file could harm.
    return settings.model_copy(
        update={
            "request_timeout_s": 24 * 3600.0,
            "probe_models": False,
            "max_queue_size": max(settings.max_queue_size, _QUEUE),
        },
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument(
        "--device",
        type=_device,
        default=os.environ.get(ENV_PREFIX + "DEVICE", "auto"),
        help="where to run: auto, cpu, cuda or tensorrt, with a number for another GPU than the"
        " first, as in cuda:1 (default: auto)",
    )


def _device(value: str) -> str:
    # argparse holds a default to its type, but not to its choices.
    try:
        parse_devices(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return value


def repository_of(models: Path | None) -> Path:
    """The model repository that --models, its twin in the environment, or the default means."""
    from service.settings import default_repository

    named = os.environ.get(ENV_PREFIX + "MODELS")
    return models or (Path(named) if named else default_repository())


def missing_runtime() -> str | None:
    """One line where ONNX Runtime is not installed, else None."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "ONNX Runtime is missing: install adaresnet[cpu] or adaresnet[gpu]"
    return None
