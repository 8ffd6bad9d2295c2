"""A model repository that changes while it is served."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.resilience.traffic import MODEL
from tests.system.flood.pictures import write_model

_MIB = 2**20


@dataclass
class Repository:
    """One model whose labels say which file answered.

    Attributes:
        root: The folder.
        digests: First digits of the SHA-256 of every file, by the tag in its labels.
    """

    root: Path
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def model(self) -> Path:
        """The model's folder."""
        return self.root / MODEL

    def file(self, version: int) -> Path:
        """Where the model file of a version lies."""
        return self.model / str(version) / "model.onnx"

    def prepare(self, tag: str, *, ballast_mib: int = 0) -> Path:
        """Write a model file beside the repository; its answers are known before it can give any.

        Args:
            tag: In front of its labels.
            ballast_mib: Weights that do nothing but need memory.
        """
        aside = self.root.parent / "aside" / f"{tag}.onnx"
        self.digests[tag] = write_model(aside, tag)
        if ballast_mib:
            _add_ballast(aside, ballast_mib)
        return aside

    def publish(self, version: int, tag: str, *, ballast_mib: int = 0) -> None:
        """Put a model in a version's place, as a whole."""
        aside = self.prepare(tag, ballast_mib=ballast_mib)
        self.file(version).parent.mkdir(parents=True, exist_ok=True)
        aside.rename(self.file(version))

    def spoil(self, version: int, data: bytes) -> None:
        """Put a file that is no model there."""
        self.file(version).parent.mkdir(parents=True, exist_ok=True)
        partial = self.file(version).with_suffix(".part")
        partial.write_bytes(data)
        partial.rename(self.file(version))

    def remove(self, version: int) -> None:
        """Take a version away."""
        shutil.rmtree(self.file(version).parent)


def _add_ballast(path: Path, mib: int) -> None:
    model = onnx.load(path)
    graph = model.graph
    (old,) = (one for one in graph.initializer if one.name == "nothing")
    graph.initializer.remove(old)
    weights = np.full(mib * _MIB // 4, 1e-30, np.float32)
    graph.initializer.append(numpy_helper.from_array(weights, "ballast"))
    graph.node.insert(0, helper.make_node("ReduceMin", ["ballast"], ["nothing"], keepdims=0))
    onnx.save(model, path)
