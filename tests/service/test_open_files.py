from __future__ import annotations

import subprocess
import sys

import pytest

resource = pytest.importorskip("resource")


def told(soft: int, hard: int, wanted: int) -> tuple[list[int], str]:
    """In a process of its own, which may have so many files open: what it finds and gets."""
    script = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from service.open_files import make_room, possible_connections
print(possible_connections({wanted}), make_room({wanted}))
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return [int(word) for word in result.stdout.split()], result.stderr


@pytest.mark.parametrize(
    ("limits", "wanted", "possible", "raised"),
    [
        ((64, 900), 500, 500, 756),  # the soft limit is no obstacle
        ((900, 900), 500, 500, 900),
        ((64, 700), 500, 444, 700),
        ((64, 300), 500, 150, 300),  # half of them at least
    ],
)
def test_the_limit_is_raised_as_far_as_it_may_be(limits, wanted, possible, raised):
    soft, hard = limits
    numbers, said = told(soft, hard, wanted)
    assert numbers == [possible, possible, raised, hard]
    assert ("max_connections" in said) is (possible < wanted)
