"""What training commands say on a machine that only serves."""

from __future__ import annotations

import importlib.util

_EXTRAS = {
    "torch": "PyTorch is missing: install adaresnet[train]",
    "matplotlib": "matplotlib is missing: install adaresnet[train]",
    "onnxruntime": "ONNX Runtime is missing: install adaresnet[cpu] or adaresnet[gpu]",
}


def missing(*packages: str) -> str | None:
    """One line about the first of these packages that is not installed, else None."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            return _EXTRAS[package]
    return None
