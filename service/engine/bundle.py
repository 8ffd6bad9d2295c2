"""The files that make up one version: the model, and what a ``config.toml`` adds to it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path, PurePath

from service.engine.errors import ModelLoadError
from service.engine.onnx_file import MAX_MODEL_BYTES
from service.engine.scan import VERSION
from service.model_config import CONFIG_FILE, ModelConfig, parse_config

_MAX_CONFIG_BYTES = 2**20
_MAX_LABELS_BYTES = 2**24

# Device, inode, size, mtime, ctime: changes whenever the file does. None: it isn't there.
_FileStamp = tuple[int, int, int, int, int] | None
Stamp = tuple[tuple[Path, _FileStamp], ...]


@dataclass(frozen=True)
class Bundle:
    """A version's files, as they were read.

    Attributes:
        model: Bytes of the model file.
        digest: Their SHA-256, hex.
        config: What ``config.toml`` says, with the labels of its label file; None without one.
        config_digest: SHA-256 of ``config.toml`` and its label file, hex.
    """

    model: bytes
    digest: str
    config: ModelConfig | None
    config_digest: str | None


def take_stamp(model: Path) -> Stamp:
    """What the files of a version look like now. Take it before they are read.

    Raises:
        OSError: The model file can't be looked at.
    """
    stat = model.stat()
    stamp = [(model, _as_stamp(stat))]
    for config in _config_places(model):
        stamp.append((config, _look(config)))
        if stamp[-1][1]:
            labels = _labels_of(config)
            if labels:
                stamp.append((labels, _look(labels)))
            break
    return tuple(stamp)


def unchanged(stamp: Stamp) -> bool:
    """Whether all files still look like that."""
    return all(_look(path) == seen for path, seen in stamp)


def read_bundle(model: Path) -> Bundle:
    """Read a version's files.

    Raises:
        ModelLoadError: One can't be read, is too large, or ``config.toml`` says what can't be; or
            the model is not the file whose SHA-256 it states.
    """
    data = _read(model, MAX_MODEL_BYTES)
    digest = hashlib.sha256(data).hexdigest()
    path = next((place for place in _config_places(model) if _look(place)), None)
    if path is None:
        return Bundle(data, digest, None, None)
    config, seen = read_config(path)
    if config.sha256 not in (None, digest):
        raise ModelLoadError(
            f"The file is damaged or another one: its SHA-256 is {digest}, and {path.name} says"
            f" {config.sha256}.",
            hint="Import the model again, or correct sha256 where the file is right.",
        )
    return Bundle(data, digest, config, seen)


def read_config(path: Path) -> tuple[ModelConfig, str]:
    """Read a ``config.toml`` and its label file; returns its SHA-256, too.

    Raises:
        ModelLoadError: One can't be read, or says what can't be.
    """
    raw = _read(path, _MAX_CONFIG_BYTES)
    digest = hashlib.sha256(raw)
    try:
        config = parse_config(_text(raw))
        if isinstance(config.labels, str):
            labels = _read(_beside(path, config.labels), _MAX_LABELS_BYTES)
            digest.update(labels)
            config = config.model_copy(update={"labels": _lines(labels, config.labels)})
    except ValueError as error:
        raise ModelLoadError(
            f"{path.name}: {error}", hint="Correct the file; it is read again when it changes."
        ) from None
    return config, digest.hexdigest()


def _config_places(model: Path) -> list[Path]:
    """Where a configuration may lie; the first one that is there counts."""
    folder = model.parent
    places = [folder / CONFIG_FILE]
    # Above a folder that is no version there are other people's files.
    if VERSION.fullmatch(folder.name):
        places.append(folder.parent / CONFIG_FILE)
    return places


def _labels_of(config: Path) -> Path | None:
    """The label file that a configuration names, if all is well with it."""
    try:
        labels = parse_config(_text(_read(config, _MAX_CONFIG_BYTES))).labels
        return _beside(config, labels) if isinstance(labels, str) else None
    except (ModelLoadError, ValueError):
        return None


def _beside(config: Path, name: str) -> Path:
    # A path that leaves the folder could show any file of this machine as labels.
    if PurePath(name).name != name or name == ".." or "\0" in name:
        raise ValueError(
            f"labels is {name[:200]!r}, but it should be the plain name of a file beside it."
        )
    path = config.parent / name
    if path.is_symlink() and not path.resolve().is_relative_to(config.parent.resolve()):
        raise ValueError(f"labels is {name!r}, a link that leaves its folder.")
    return path


def _lines(raw: bytes, name: str) -> list[str]:
    lines = [line.strip() for line in _text(raw).removeprefix("\ufeff").splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if not lines or "" in lines:
        empty = f"line {lines.index('') + 1} is empty" if lines else "it is empty"
        raise ValueError(f"labels is {name!r}, but {empty}; it should have one label a line.")
    return lines


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is no UTF-8.") from None


def _look(path: Path) -> _FileStamp:
    try:
        return _as_stamp(path.stat())
    except (OSError, ValueError):
        return None


def _as_stamp(stat: os.stat_result) -> _FileStamp:
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _read(path: Path, limit: int) -> bytes:
    try:
        # Opening a pipe would wait for whoever writes into it.
        if not path.is_file():
            raise ModelLoadError(
                f"{path.name} is not there, or no file.", hint="Put it there, or don't name it."
            )
        size = path.stat().st_size
        if size > limit:
            raise ModelLoadError(
                f"{path.name} has {size} bytes; the limit is {limit}.", hint="Make it smaller."
            )
        return path.read_bytes()
    except OSError as error:
        raise ModelLoadError(
            f"{path.name} can't be read: {error.strerror}.", hint="Check its permissions."
        ) from error
