"""Names of models that are not to be served although they lie in the repository.

They were unloaded on demand. With several workers the names are empty files in a folder that all of
them read: a file comes and goes in one step, so no worker ever sees half a change.
"""

from __future__ import annotations

import contextlib
from pathlib import Path


class Unloaded:
    """The names, of this process alone or of several."""

    def __init__(self, folder: Path | None = None) -> None:
        """Begin with what others have unloaded.

        Args:
            folder: The same for all workers; None: this process is alone.
        """
        self._names: frozenset[str] = frozenset()
        self._folder = folder
        if folder is not None:
            folder.mkdir(exist_ok=True)
        self._seen = self._look()

    def names(self) -> frozenset[str]:
        """The models that were unloaded, by this worker or another."""
        if self._folder is not None:
            # Where it is gone the parent has ended, and this process is about to.
            with contextlib.suppress(FileNotFoundError):
                self._names = frozenset(path.name for path in self._folder.iterdir())
        return self._names

    def add(self, name: str) -> None:
        """A model is unloaded; ``name`` is one of a model in the repository."""
        if self._folder is None:
            self._names |= {name}
        else:
            (self._folder / name).touch()

    def discard(self, name: str) -> None:
        """A model is loaded again, whether or not it was unloaded."""
        if self._folder is None:
            self._names -= {name}
        else:
            # In any case, for the others are to look at the model's files now.
            (self._folder / name).touch()
            (self._folder / name).unlink(missing_ok=True)

    def changed(self) -> bool:
        """Whether any worker has loaded or unloaded something since this was last asked."""
        before, self._seen = self._seen, self._look()
        return self._seen != before

    def _look(self) -> tuple[frozenset[str], int]:
        # A folder's time changes with its files, but two changes at once may have the same.
        names = self.names()
        try:
            return names, self._folder.stat().st_mtime_ns if self._folder else 0
        except FileNotFoundError:
            return names, 0
