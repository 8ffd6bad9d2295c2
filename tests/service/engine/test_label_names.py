from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.label_names import labels_in_metadata, parse_labels


@pytest.mark.parametrize(
    "text",
    [
        '["cat", "dog"]',
        "['cat', 'dog']",
        "{0: 'cat', 1: 'dog'}",
        '{"1": "dog", "0": "cat"}',
        '{"cat": 0, "dog": 1}',
        '{"id2label": {"0": "cat", "1": "dog"}, "other": 1}',
        "cat\ndog\n",
        "cat,dog",
        "\ufeffcat\r\n dog ",
    ],
)
def test_forms(text):
    assert parse_labels(text) == ["cat", "dog"]


@pytest.mark.parametrize("text", ["", "{0: 'a', 2: 'b'}", "{'a': 'b'}", "{1: 'a', '1': 'b'}", "{}"])
def test_what_is_none(text):
    assert parse_labels(text) == []


def test_metadata_counts_only_with_the_right_number():
    metadata = {"author": "a,b", "names": "{0: 'cat', 1: 'dog'}"}
    assert labels_in_metadata(metadata, 2) == (["cat", "dog"], "names")
    assert labels_in_metadata(metadata, 3) == (None, None)


@pytest.mark.parametrize("text", ["[" * 100_000, "{" * 100_000, "(" * 1000, "[" + "-" * 100_000])
def test_nesting_is_no_harm(text):
    parse_labels(text)


@given(st.text())
def test_labels_are_lines(text):
    assert all("\n" not in label and label for label in parse_labels(text))
