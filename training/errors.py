"""What training raises for people to read."""

from __future__ import annotations


class TrainingError(Exception):
    """A run can't start or can't go on; the message says why and what to do."""


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The run was asked to stop, and has saved where it was."""
