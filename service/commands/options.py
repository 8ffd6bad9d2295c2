"""Options that several commands share; each has its twin in the environment."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from service.settings import ENV_PREFIX, Settings


def add_model_source(parser: argparse.ArgumentParser) -> None:
    """Add --url, --models, --device and --json."""
    parser.add_argument(
        "--url", default=_environment("URL"), help="ask this server instead of loading models here"
    )
    parser.add_argument("--models", default=_environment("MODELS"), help="model repository")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default=_environment("DEVICE") or "auto",
        help="where models run",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def local_settings(args: argparse.Namespace) -> Settings:
    """Settings for an engine in this process.

    Raises:
        ValueError: The model repository is no folder.
    """
    settings = Settings(models=Path(args.models) if args.models else None, device=args.device)
    if not settings.repository.is_dir():
        raise ValueError(f"models: {settings.repository} is no folder")
    return settings


def _environment(name: str) -> str | None:
    return os.environ.get(ENV_PREFIX + name)
