from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.report.canvas import check_folder, save_figure, short_name, short_path
from training.report.errors import ReportError
from training.report.evaluation_pictures import draw_calibration, draw_confusion
from training.report.metrics import Scores, score
from training.report.scales import RunScales, ScaleCourse, Spread
from training.report.skip_share import BlockShare
from training.report.weight_pictures import draw_shares, draw_weights


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("L"))
        assert pixels.min() < 100 < 250 < pixels.max()  # something is drawn, on white
        return image.size


def scores(classes: int, rng: np.random.Generator) -> Scores:
    labels = rng.integers(0, classes, 5 * classes)
    logits = rng.normal(size=(len(labels), classes)).astype(np.float32)
    logits[np.arange(len(labels)), labels] += 3
    return score(logits, labels, tuple(f"$class_{n}$ \U0001f408 名" for n in range(classes)))


@pytest.mark.parametrize("classes", [2, 20, 100, 150])
def test_confusion_is_readable_at_any_size(classes, rng, tmp_path):
    figure = draw_confusion(scores(classes, rng), "a title")
    save_figure(figure, tmp_path / "c.png")
    width, height = size_of(tmp_path / "c.png")
    assert 400 <= height <= width <= 2500
    axes = figure.axes[0]
    assert len(axes.get_xticklabels()) == classes or classes > 100
    numbers = [text.get_text() for text in axes.texts]
    assert bool(numbers) == (classes <= 20)
    if classes == 100:  # a line of text for every class
        pixels = axes.get_window_extent().height / classes
        assert pixels > 6 * figure.dpi / 72


def test_reliability_diagram(rng, tmp_path):
    found = scores(4, rng)
    save_figure(draw_calibration(found, "a title"), tmp_path / "c.png")
    width, height = size_of(tmp_path / "c.png")
    assert width > 400
    assert height > 400


def run(blocks: int, channels: int = 1, terms: tuple[str, ...] = ("shortcut",)) -> RunScales:
    kinds = ["projection" if n % 18 == 0 else "identity" for n in range(blocks)]
    scales, shares = [], []
    for n, kind in enumerate(kinds):
        for term in terms:
            course = [Spread(mean=1 - 0.03 * n * e, low=-1, high=2) for e in range(4)]
            scales.append(
                ScaleCourse(
                    block=f"stage_block{n}",
                    kind=kind,
                    term=term,
                    channels=channels,
                    negative=0,
                    epochs=[0, 1, 2, 3],
                    course=course,
                    end=course[-1],
                )
            )
        shares.append(
            BlockShare(
                block=f"stage_block{n}",
                kind=kind,
                skip_share=None if n == 1 else 0.01 * n,
                gauge_fixed=[],
            )
        )
    return RunScales(
        run=f"run{blocks}", network="n", data="d", epochs=3, scales=scales, images=9, shares=shares
    )


def test_few_scales_are_named_and_many_have_a_ramp(tmp_path):
    few = draw_weights([run(3)])
    save_figure(few, tmp_path / "few.png")
    assert size_of(tmp_path / "few.png")[0] > 800
    legend = few.axes[0].get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [f"stage_block{n} shortcut" for n in range(3)]
    many = draw_weights([run(54, terms=("shortcut", "branch")), run(3, channels=4)])
    save_figure(many, tmp_path / "many.png")
    assert size_of(tmp_path / "many.png")[1] > 800
    titles = [axes.get_ylabel() for axes in many.axes]
    assert titles.count("identity: block, from the input") == 1
    assert titles.count("projection: block, from the input") == 1
    lines = many.axes[0].get_lines()[:108]
    assert [line.get_linestyle() for line in lines[:2]] == ["-", "--"]
    assert len({line.get_color() for line in lines}) > 50
    assert len(many.axes[1].collections) == 3  # the bands of one scale a channel


def test_skip_shares_of_several_runs_side_by_side(tmp_path):
    unmeasured = run(2).model_copy(update={"shares": []})
    figure = draw_shares([run(3), run(3), unmeasured])
    save_figure(figure, tmp_path / "s.png")
    size_of(tmp_path / "s.png")
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == ["stage_block0", "stage_block1", "stage_block2"]
    places = {float(np.asarray(line.get_xdata())[0]) for line in figure.axes[0].get_lines()}
    assert len(places) > 4
    deep = draw_shares([run(54), run(3)])
    save_figure(deep, tmp_path / "deep.png")
    assert size_of(tmp_path / "deep.png")[0] <= 2000
    assert deep.axes[0].get_xlabel() == "block, counted from the input"


def test_names_are_cut_where_it_hurts_least():
    assert short_name("a" * 99) == "a" * 23 + "…"
    assert short_name("two\nlines") == "two lines"
    assert short_path("/x" * 40 + "/run7").endswith("/run7")
    assert len(short_path("/x" * 40)) == 48


def test_a_folder_that_can_t_be_written_is_said_before_the_work(tmp_path):
    check_folder(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ReportError, match="can't be written"):
        check_folder(tmp_path / "file" / "below")
