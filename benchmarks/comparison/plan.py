"""What is measured: the cells of each model, and in how many rounds."""

from __future__ import annotations

from dataclasses import dataclass

from comparison.trial import Cell


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: In each, every server takes its turn.
        quick: A smoke run: a second a cell, and not every cell.
        seconds: That a cell of single pictures takes; cells of many take one less.
    """

    rounds: int
    quick: bool
    seconds: int = 3

    def cells(self, network: str) -> list[Cell]:
        """Of one model."""
        singles = 1 if self.quick else self.seconds
        large = few = max(1, singles - 1)
        bulk_connections = (4,) if self.quick else (1, 4)
        if network == "resnet20":
            jpeg = [Cell("jpeg", 1, count, singles) for count in (1, 8, 32, 64)]
            bulk = [
                Cell(kind, images, count, few if images > 32 else large, few=images > 32)
                for kind in ("files", "tensor")
                for images in (32, 1000)
                for count in bulk_connections
            ]
            return jpeg + bulk
        if network == "resnet18":
            return [Cell("jpeg", 1, count, singles) for count in (1, 32)]
        # So slow that what is under way when the time is up would matter.
        jpeg = [Cell("jpeg", 1, count, singles, few=True) for count in (1, 8, 32)]
        return [*jpeg, Cell("tensor", 32, 1, few, few=True)]

    def wants(self, network: str, number: int) -> bool:
        """Whether a model is measured in this round; the slow ones are in all but the last."""
        return network == "resnet20" or number < max(1, self.rounds - 1)

    @property
    def ceiling_s(self) -> float:
        """How long each way of running ONNX Runtime is timed."""
        return 0.3 if self.quick else 0.8
