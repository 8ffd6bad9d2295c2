"""Model files that somebody has changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from service.engine.digest import BLANK_DIGEST, seal
from service.metadata import METADATA_KEY


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a file, as it stands in it."""
    (prop,) = onnx.load(path).metadata_props
    assert prop.key == METADATA_KEY
    told: dict[str, Any] = json.loads(prop.value)
    return told


def with_changes(path: Path, into: Path, metadata: dict[str, Any]) -> Path:
    """Copy a file with other metadata, and a digest that fits: whoever did it knew how."""
    model = onnx.load(path)
    told = read_metadata(path) | metadata | {"file_digest": BLANK_DIGEST}
    text = json.dumps(told, separators=(",", ":"), ensure_ascii=False)
    helper.set_model_props(model, {METADATA_KEY: text})
    into.write_bytes(seal(model.SerializeToString(deterministic=True)))
    return into


def with_damage(path: Path, into: Path) -> Path:
    """Copy a file with one bit of one weight turned."""
    model = onnx.load(path)
    weight = next(w for w in model.graph.initializer if w.name == "classifier.weight")
    data = bytearray(path.read_bytes())
    data[data.index(weight.raw_data)] ^= 1  # the last bit of a mantissa: no logit shows it
    into.write_bytes(data)
    return into
