from comparison.report import BEGIN, END, format_spread, put_section, table
from comparison.results import Spread


def test_a_section_replaces_the_one_before_and_nothing_else():
    first = put_section("# Benchmarks\n\nabove\n", "old")
    document = first + "\n## Below\n"
    assert put_section(document, "new") == (
        f"# Benchmarks\n\nabove\n\n{BEGIN}\nnew\n{END}\n\n## Below\n"
    )


def test_an_empty_document_becomes_the_section():
    assert put_section("", "text\n") == f"{BEGIN}\ntext\n{END}\n"


def test_a_spread_is_median_and_range():
    assert format_spread(Spread(1234.4, 1200, 1300)) == "1,234 (1,200 to 1,300)"
    assert format_spread(Spread(1.5, 1.5, 1.5), 2) == "1.50"
    assert format_spread(None) == "-"


def test_a_table_has_a_line_a_row():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
