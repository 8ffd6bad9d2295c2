from __future__ import annotations

import os

from training.data.memory import default_limit_bytes


def test_the_default_is_a_part_of_what_the_machine_has():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < default_limit_bytes() <= total // 2
