"""A model repository in which versions come, change and go while it is served."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.system.flood.ledger import MODEL, Ledger
from tests.system.flood.pictures import write_model

_SEEN_S = 90  # until an answer must have come from a file


@dataclass
class Swapper:
    """Version 1 is always there, 2 now and then, and 3 is broken; 4 never is."""

    root: Path
    ledger: Ledger
    rounds: int = 0

    def begin(self) -> None:
        self._write(1, "1.0")

    async def swap(self) -> None:
        """One round of changes, each of which is seen in an answer before the next."""
        self.rounds += 1
        self._write(2, f"2.{self.rounds}")
        self._break(3)
        await self._until_seen(f"2.{self.rounds}")
        self._write(2, f"2.{self.rounds}b")
        await self._until_seen(f"2.{self.rounds}b")
        shutil.rmtree(self.root / MODEL / "2")
        self._write(1, f"1.{self.rounds}")
        await self._until_seen(f"1.{self.rounds}")
        shutil.rmtree(self.root / MODEL / "3")

    def _write(self, version: int, tag: str) -> None:
        path = self.root / MODEL / str(version) / "model.onnx"
        # Known before it can answer: written beside, then moved.
        aside = self.root.parent / "aside" / "model.onnx"
        self.ledger.digests[tag] = write_model(aside, tag)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(path)

    def _break(self, version: int) -> None:
        folder = self.root / MODEL / str(version)
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"broken")

    async def _until_seen(self, tag: str) -> None:
        async with asyncio.timeout(_SEEN_S):
            await self.ledger.seen[tag].wait()
