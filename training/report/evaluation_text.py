"""An evaluation as a person reads it in a terminal."""

from __future__ import annotations

from training.report.evaluation import Evaluation
from training.report.metrics import ClassScores, Scores

_ALL_CLASSES = 100  # beyond, only the worst are listed
_WORST = 20


def evaluation_report(evaluation: Evaluation) -> str:
    """Every number of an evaluation but the confusion matrix and the calibration bins."""
    scores, speed = evaluation.scores, evaluation.throughput
    sign = "over" if scores.overconfidence >= 0 else "under"
    threads = ""
    if speed.device == "cpu":
        threads = f", {speed.threads} thread{'s' if speed.threads > 1 else ''}"
    lines = [
        f"{evaluation.model} on {evaluation.data}, {evaluation.split}: {scores.images:,} images",
        *(f"note: {note}" for note in evaluation.notes),
        "",
        f"top-1 accuracy     {scores.top1:.2%}",
        *([f"top-5 accuracy     {scores.top5:.2%}"] if scores.top5 is not None else []),
        f"mean log loss      {scores.log_loss:.4f} nats",
        f"calibration error  {scores.expected_calibration_error:.2%} (expected, {len(scores.bins)}"
        f" bins); {sign}confident by {abs(scores.overconfidence):.2%}",
        f"throughput         {speed.images_per_s:,.0f} images/s in batches of {speed.batch_size} on"
        f" {speed.device}{threads}",
        f"                   ({speed.duration_s:.2f} s after a warm-up, {speed.measured})",
        "",
        *_class_table(scores),
    ]
    if scores.confused:
        lines += ["", "most confused:"]
        lines += [
            f"  {p.true} taken for {p.predicted}: {p.images:,} ({p.share:.1%} of {p.true})"
            for p in scores.confused
        ]
    return "\n".join(lines)


def align(rows: list[tuple[str, ...]], left: int = 1) -> list[str]:
    """Columns side by side, the first ``left`` of them aligned to the left, the others right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _class_table(scores: Scores) -> list[str]:
    shown = scores.classes
    lines = []
    if len(shown) > _ALL_CLASSES:
        lines = [f"the {_WORST} of {len(shown)} classes with the lowest F1:"]
        shown = sorted((c for c in shown if c.support), key=lambda c: c.f1 or 0.0)[:_WORST]
    rows = [("CLASS", "IMAGES", "PRECISION", "RECALL", "F1"), *(_class_row(c) for c in shown)]
    return lines + align(rows)


def _class_row(row: ClassScores) -> tuple[str, ...]:
    ratios = (f"{v:.2%}" if v is not None else "-" for v in (row.precision, row.recall, row.f1))
    return (row.name, f"{row.support:,}", *ratios)
