from __future__ import annotations

import pytest

from training.report.errors import ReportError
from training.report.paper_tables import make_tables, markdown
from training.report.scales import RunScales, ScaleCourse, Spread


def scale(name: str, kind: str, value: float, term: str = "shortcut", channels: int = 1):
    spread = Spread(mean=value, low=value, high=value)
    return ScaleCourse(
        block=name,
        kind=kind,
        term=term,
        channels=channels,
        negative=int(value < 0),
        epochs=[0],
        course=[spread],
        end=spread,
    )


def run(name: str, data: str, *weights: float, network: str = "net") -> RunScales:
    kinds = ("projection", "identity", "projection")
    scales = [
        scale(f"b{index}", kind, w)
        for index, (kind, w) in enumerate(zip(kinds, weights, strict=False))
    ]
    return RunScales(run=name, network=network, data=data, epochs=1, scales=scales)


# abs(w): layer 1 is 1, 3 and then 5, 5; layer 2 is 2, 2 and then 0, 4.
ROUNDS = [
    run("a", "one", 1, 2),
    run("b", "one", -3, 2),
    run("c", "two", 5, 0),
    run("d", "two", 5, 4),
]


def test_statistics_by_hand():
    found = make_tables(ROUNDS)
    one, two = found.tables
    assert one.weights == [[1, -3], [2, 2]]
    assert one.rounds == ["a", "b"]
    assert one.mean_abs == [2, 2]
    # Layer 1: 1 and 3 have population variance 1, sample variance 2; layer 2 none.
    assert one.within.population == pytest.approx(0.5)
    assert one.within.sample == pytest.approx(1.0)
    # Signed, 1 and -3: population 4, sample 8.
    assert one.within_signed.population == pytest.approx(2.0)
    assert one.within_signed.sample == pytest.approx(4.0)
    assert two.within.population == pytest.approx(2.0)
    assert two.within.sample == pytest.approx(4.0)
    # Means: layer 1 is 2 and 5, population 2.25; layer 2 is 2 and 2.
    assert found.between is not None
    assert found.between.population == pytest.approx(1.125)
    assert found.between.sample == pytest.approx(2.25)
    assert found.between_projection_share == 1.0


def test_the_paper_s_own_form():
    text = markdown(make_tables(ROUNDS))
    assert "**Weights on one** (net)\n\n| Layer | Round 1 | Round 2 |" in text
    assert "| 1 | 1.0000 | -3.0000 |\n| 2 | 2.0000 | 2.0000 |" in text
    assert "Rounds: 1 a; 2 b." in text
    assert "| one, over 2 rounds | 0.500000 | 1.000000 |" in text
    assert "| between data sets, of the 2 means a layer | 1.125000 | 2.250000 |" in text
    assert "100.0% of the variance" in text


def test_one_round_has_no_variance():
    found = make_tables(ROUNDS[:1])
    assert found.between is None
    assert found.tables[0].within.population is None
    assert "| one, over 1 rounds | needs two rounds |" in markdown(found)


def test_data_sets_of_other_depth_are_not_compared():
    found = make_tables([run("a", "one", 1), run("b", "two", 1, 2)])
    assert found.between is None
    assert "The networks differ" in markdown(found)


def test_equal_data_sets_have_no_share_of_nothing():
    found = make_tables([run("a", "one", 1, 2), run("b", "two", 1, 2)])
    assert found.between is not None
    assert found.between.population == 0
    assert found.between_projection_share is None


def test_what_fits_no_table_is_refused():
    with pytest.raises(ReportError, match="different networks: big, net"):
        make_tables([run("a", "one", 1), run("b", "one", 1, 2, network="big")])
    branch = run("a", "one").model_copy(update={"scales": [scale("b", "identity", 1, "branch")]})
    with pytest.raises(ReportError, match="a has no scale on its shortcuts"):
        make_tables([branch])
    several = run("a", "one").model_copy(update={"scales": [scale("b", "identity", 1, channels=2)]})
    with pytest.raises(ReportError, match="one scale a channel"):
        make_tables([several])
