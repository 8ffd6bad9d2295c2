"""How many files this process may have open, and how many connections that leaves room for."""

from __future__ import annotations

import logging
import math

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

OTHER_FILES = 256  # besides connections: models, logs, what libraries open
_logger = logging.getLogger(__name__)


def open_file_limits() -> tuple[float, float] | None:
    """The limit, and how far a process may raise it; None: this system doesn't say."""
    if resource is None:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _number(soft), _number(hard)


def possible_connections(wanted: int) -> int:
    """How many connections of so many a process can have that raises its limit.

    One more would find no file, and get no answer at all.
    """
    limits = open_file_limits()
    if limits is None or limits[1] >= wanted + OTHER_FILES:
        return wanted
    most = int(limits[1])
    return max(most - OTHER_FILES, most // 2)


def make_room(connections: int) -> int:
    """Let this process have open what its connections need, as far as it is allowed to.

    Returns:
        How many connections it can have.
    """
    limits = open_file_limits()
    wanted = connections + OTHER_FILES
    if limits is None or limits[0] >= wanted:
        return connections
    possible, most = possible_connections(connections), int(min(wanted, limits[1]))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if possible < connections:
        _logger.warning(
            "max_connections is %d instead of %d, for this process may have %d files open"
            " (ulimit -n)",
            possible,
            connections,
            most,
        )
    return possible


def _number(limit: int) -> float:
    return math.inf if limit == resource.RLIM_INFINITY else limit
