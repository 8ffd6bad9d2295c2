"""What an examination has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        about: What.
        state: ``problem`` keeps the service from doing what is asked of it, ``warning`` may.
        found: A sentence.
        fix: What to do; empty where nothing is to be done.
    """

    about: str
    state: State
    found: str
    fix: str = ""
