"""Find what the addresses of ``/v2`` name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import Path
from starlette.requests import Request

from service.engine.errors import VersionNotFoundError
from service.engine.predictor import Predictor
from service.engine.repository import Entry, ModelRepository, ReadyVersion
from service.engine.scan import VERSION

Name = Annotated[str, Path(description="model name", examples=["cifar10"])]
Version = Annotated[str, Path(description="model version, a plain number", examples=["1"])]


def predictor_of(request: Request) -> Predictor:
    """The door to the engine."""
    predictor: Predictor = request.app.state.predictor
    return predictor


def repository_of(request: Request) -> ModelRepository:
    """The model repository."""
    return predictor_of(request).repository


def find_ready(request: Request, name: str, version: str | None) -> ReadyVersion:
    """The version that an address means; without one, the highest that is ready.

    Raises:
        ModelNotFoundError: No such model.
        VersionNotFoundError: No such version of it.
        ModelNotReadyError: It is there but can't answer.
    """
    repository = repository_of(request)
    number = None if version is None else _number(repository, name, version)
    return repository.find(name, number)


def find_versions(request: Request, name: str, version: str | None) -> Mapping[int, Entry]:
    """A model's versions, or the one that an address means, ready or not.

    Raises:
        ModelNotFoundError: No such model.
        VersionNotFoundError: No such version of it.
    """
    repository = repository_of(request)
    versions = repository.versions(name)
    if version is None:
        return versions
    number = _number(repository, name, version)
    if number not in versions:
        raise _not_found(repository, name, version)
    return {number: versions[number]}


def _number(repository: ModelRepository, name: str, version: str) -> int:
    if not VERSION.fullmatch(version):
        raise _not_found(repository, name, version)
    return int(version)


def _not_found(repository: ModelRepository, name: str, version: str) -> VersionNotFoundError:
    versions = repository.versions(name)
    return VersionNotFoundError(
        f"Model {name!r} has no version {version[:50]!r}.",
        hint=f"Its versions are {', '.join(map(str, sorted(versions)))}.",
    )
