"""Class names as exporters and people write them down."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

# As ultralytics, timm, Hugging Face and others name them in a model's metadata.
_KEYS = ("labels", "names", "classes", "class_names", "label_names", "id2label", "categories")
_MAX_CHARACTERS = 2**24


def labels_in_metadata(
    metadata: Mapping[str, str], classes: int
) -> tuple[list[str], str] | tuple[None, None]:
    """The labels in a model's metadata, and the key that has them, if they are as many as needed.

    Args:
        metadata: The file's ``metadata_props``.
        classes: Labels that are needed.
    """
    for key in _KEYS:
        labels = parse_labels(metadata.get(key, ""))
        if len(labels) == classes:
            return labels, key
    return None, None


def parse_labels(text: str) -> list[str]:
    """Labels from JSON, a Python literal, or lines; or parts between commas if it is one line.

    A list has them in order; a dictionary has them by their number, or their numbers by them.

    Returns:
        One text a class, without line breaks; empty where there is nothing of the kind.
    """
    if len(text) > _MAX_CHARACTERS:
        return []
    value = _literal(text)
    if isinstance(value, dict):
        value = next((value[key] for key in _KEYS if key in value), value)
    if isinstance(value, dict):
        value = _by_number(value)
    if value is None:
        lines = text.strip().removeprefix("\ufeff").splitlines()
        value = lines if len(lines) != 1 else lines[0].split(",")
    if not isinstance(value, list | tuple):
        return []
    return [" ".join(str(label).split()) or str(index) for index, label in enumerate(value)]


def _literal(text: str) -> object:
    text = text.strip()
    if not text.startswith(("[", "{", "(")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        value: object = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return value


def _by_number(value: dict[Any, Any]) -> list[object]:
    """{0: 'cat', 1: 'dog'} or {'cat': 0, 'dog': 1} in order; empty if numbers are missing."""
    for pairs in (value, {number: label for label, number in value.items() if _plain(number)}):
        numbered = {int(str(k)): v for k, v in pairs.items() if str(k).isdecimal()}
        if len(numbered) == len(value) and sorted(numbered) == list(range(len(value))):
            return [numbered[number] for number in range(len(value))]
    return []


def _plain(value: object) -> bool:
    return isinstance(value, int | str)
