"""The error of reports that nothing else names."""

from __future__ import annotations


class ReportError(Exception):
    """A report can't be made; the message says why, in one line."""
