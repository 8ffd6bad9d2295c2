"""Load and unload models on demand, while others are served."""

from __future__ import annotations

from service.engine import heap
from service.engine.errors import ModelLoadError
from service.engine.repository import ModelRepository
from service.metadata import MODEL_NAME


def unload(repository: ModelRepository, name: str) -> None:
    """Let a model go: no new request finds it, and those in work are finished.

    It stays away until it is loaded again, in all workers.

    Raises:
        ModelNotFoundError: No such model.
        ModelNotReadyError: It may be among those that are still being loaded.
    """
    repository.versions(name)
    repository.unloaded.add(name)
    repository.serve_rest()
    heap.release()


def load(repository: ModelRepository, name: str) -> None:
    """Load what is new, changed, unloaded or failed of a model. Blocks until it answers.

    Raises:
        ModelNotFoundError: No such model.
        ModelLoadError: A version of it can't be loaded, or the repository can't be read.
        DeviceError: The demanded device can't be used.
    """
    if MODEL_NAME.fullmatch(name):
        repository.unloaded.discard(name)
    try:
        repository.refresh(retry=name)
    except OSError as error:
        raise ModelLoadError(
            f"The model repository can't be read: {error.strerror}.",
            hint="Check the folder and its permissions.",
        ) from error
    failures = {number: entry.error for number, entry in repository.versions(name).items()}
    reasons = [
        f"Version {number}: {error.detail} {error.hint}"
        for number, error in sorted(failures.items())
        if error is not None
    ]
    if reasons:
        raise ModelLoadError(
            f"Model {name!r} can't be loaded. {' '.join(reasons)}",
            hint="POST /v2/repository/index says what can answer.",
        )


def follow(repository: ModelRepository) -> bool:
    """Let go of what another worker was told to unload.

    Returns:
        Whether anything changed, so that ``refresh`` has to load what may have come back.
    """
    if not repository.unloaded.changed():
        return False
    repository.serve_rest()
    return True
