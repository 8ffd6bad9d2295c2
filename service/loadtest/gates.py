"""Conditions under which a load test fails, for scripts."""

from __future__ import annotations

import argparse
import operator
import re
from dataclasses import dataclass

from service.loadtest.measurement import PERCENTILES, Measurement
from service.tuning.quantities import milliseconds, parse_duration

_GATE = re.compile(r"\s*([a-z0-9.]+)\s*(<=|>=|<|>)\s*(\S+)\s*")
_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_SHARES = ("errors", "achieved")
_WANTED = (
    "a condition like 'p99>50ms', 'errors>1%' or 'achieved<95%';"
    f" there are {', '.join(PERCENTILES)}, max, errors and achieved"
)


@dataclass(frozen=True)
class Gate:
    """A condition that must not hold.

    Attributes:
        text: As it was given.
        metric: A percentile, "max", "errors" or "achieved".
        comparison: One of the operators.
        value: Seconds, or a share.
    """

    text: str
    metric: str
    comparison: str
    value: float

    def fails(self, measurement: Measurement) -> bool:
        """Whether the condition holds; without any answer, one about latency always does."""
        if self.metric not in _SHARES and not measurement.latencies.total:
            return True
        return bool(_OPERATORS[self.comparison](self.actual(measurement), self.value))

    def actual(self, measurement: Measurement) -> float:
        """What was measured: seconds, or a share."""
        if self.metric == "errors":
            return measurement.error_share
        if self.metric == "achieved":
            return measurement.achieved_share
        return measurement.percentiles_s()[self.metric]

    def describe(self, measurement: Measurement) -> str:
        """What was measured against what was asked, one line."""
        actual = self.actual(measurement)
        text = f"{actual:.2%}" if self.metric in _SHARES else milliseconds(actual)
        return f"{self.metric} is {text}; it fails at {self.text}"


NO_ERRORS = Gate("errors>0%", "errors", ">", 0.0)


def parse_gate(text: str) -> Gate:
    """Read ``p99>50ms``.

    Raises:
        argparse.ArgumentTypeError: It is no such text.
    """
    found = _GATE.fullmatch(text)
    if not found or found[1] not in (*PERCENTILES, "max", *_SHARES):
        raise argparse.ArgumentTypeError(f"{text!r} is not {_WANTED}")
    metric, comparison, value = found.groups()
    try:
        number = _share(value) if metric in _SHARES else parse_duration(value)
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r} is not {_WANTED}") from None
    return Gate(text.strip(), metric, comparison, number)


def _share(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?%", text):
        raise ValueError(text)
    return float(text[:-1]) / 100
