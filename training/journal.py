"""What a run writes while it goes: JSON lines, and TensorBoard events where asked."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from training.checkpoint import EpochRecord, RunState

METRICS_FILE = "metrics.jsonl"
RUN_FILE = "run.json"
RECIPE_FILE = "recipe.toml"


class Journal:
    """The log of one run, in its folder."""

    def __init__(self, state: RunState, *, resumed_at: int, tensorboard: bool) -> None:
        """Begin a log, or go on behind the step that a resumed run begins at."""
        folder = state.config.out
        self._path = folder / METRICS_FILE
        kept = self._rows_before(resumed_at) if resumed_at else []
        self._path.write_text("".join(row + "\n" for row in kept))
        (folder / RUN_FILE).write_text(state.model_dump_json(indent=1, exclude={"history"}) + "\n")
        (folder / RECIPE_FILE).write_text(as_recipe(state))
        self._events: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            # Hides what an earlier process logged at this step or behind it.
            self._events = SummaryWriter(str(folder), purge_step=resumed_at + 1)

    def step(
        self,
        step: int,
        *,
        loss: float,
        accuracy: float,
        learning_rate: float,
        images_per_s: float,
        scales: dict[str, list[float]],
    ) -> None:
        """Log averages over the steps since the last row, and every scale now."""
        numbers = {
            "loss": loss,
            "accuracy": accuracy,
            "learning_rate": learning_rate,
            "images_per_s": images_per_s,
        }
        self._write({"kind": "step", "step": step, **numbers, "scales": scales})
        for name, value in numbers.items():
            self._scalar(f"step/{name}", value, step)
        self._scales(scales, step)

    def epoch(self, step: int, record: EpochRecord) -> None:
        """Log a finished epoch; ``step`` is the number of steps done."""
        values = record.model_dump(mode="json")
        self._write({"kind": "epoch", "step": step, **values})
        for name in ("train_loss", "train_accuracy", "test_accuracy"):
            self._scalar(f"epoch/{name}", values[name], step)
        self._scales(record.scales, step)

    def close(self) -> None:
        """Write out what is still in memory."""
        if self._events is not None:
            self._events.close()

    def _write(self, row: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _scalar(self, name: str, value: float, step: int) -> None:
        if self._events is not None:
            self._events.add_scalar(name, value, step)

    def _scales(self, scales: dict[str, list[float]], step: int) -> None:
        for name, values in scales.items():
            # One curve a scale; of one a channel, their mean.
            self._scalar(f"scale/{name}", sum(values) / len(values), step)

    def _rows_before(self, step: int) -> list[str]:
        """Rows up to a step; one that was being written when the run was killed is no JSON."""
        if not self._path.is_file():
            return []
        kept = []
        for row in self._path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                if json.loads(row)["step"] <= step:
                    kept.append(row)
        return kept


def as_recipe(state: RunState) -> str:
    """A recipe that repeats a run, with where its data was.

    JSON's numbers, booleans and strings are TOML's too.
    """
    config = {name: value for name, value in state.config.portable().items() if value is not None}
    lines = [f"# data: {state.data_name}, digest {state.data_digest}"]
    if state.started_from is not None:
        lines.append(f"# started from: {state.started_from}")
    if state.processes > 1:
        lines.append(f"# in {state.processes} processes: fewer or more draw other random numbers")
    lines += [f"{name} = {json.dumps(value)}" for name, value in config.items()]
    return "\n".join(lines) + "\n"
