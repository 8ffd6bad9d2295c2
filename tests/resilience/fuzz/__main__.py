"""Send what Hypothesis draws to a real service for as long as you like.

    python -m tests.resilience.fuzz --minutes 60
    python -m tests.resilience.fuzz --seed 123 --only files      # what failed, once more

Each round has a seed of its own, which a failure prints with the smallest example that fails.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, given, settings

from tests.resilience.bench import free_port
from tests.resilience.fuzz.properties import PROPERTIES, Property
from tests.resilience.service import Service, serving
from tests.resilience.traffic import MODEL
from tests.system.flood.pictures import write_model

_EXAMPLES = 300  # of a property in a round
_MORE_MIB = 300.0


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz; returns 0 where nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.resilience.fuzz")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="of one round, instead of many")
    parser.add_argument("--only", choices=[one.name for one in PROPERTIES])
    args = parser.parse_args(argv)
    wanted = [one for one in PROPERTIES if args.only in (None, one.name)]
    until = time.monotonic() + args.minutes * 60
    with tempfile.TemporaryDirectory(prefix="adaresnet-fuzz-") as name:
        folder = Path(name)
        write_model(folder / "models" / MODEL / "1" / "model.onnx", "1")
        with serving(folder / "models", folder, port=free_port()) as server:
            begin_mib = 0.0
            while True:
                seed = random.randrange(2**32) if args.seed is None else args.seed
                print(f"seed {seed}", flush=True)
                if [one for one in wanted if not _holds(one, server, seed)]:
                    return 1
                now_mib = server.settled().rss_mib
                begin_mib = begin_mib or now_mib  # once it has seen everything
                if now_mib > begin_mib + _MORE_MIB:
                    print(f"the service grew from {begin_mib:.0f} to {now_mib:.0f} MiB")
                    return 1
                if args.seed is not None or time.monotonic() > until:
                    print("nothing was found")
                    return 0


def run(one: Property, server: Service, profile: settings, seed: int | None = None) -> None:
    """Draw examples of a property and send them.

    Raises:
        Exception: As the check does, with the smallest example that fails.
    """

    @profile
    @given(one.drawn)
    def check(drawn: object) -> None:
        one.check(server.port, drawn)

    if seed is not None:
        check = hypothesis.seed(seed)(check)
    check()
    server.check_alive()
    assert "Traceback" not in server.text()


def _holds(one: Property, server: Service, seed: int) -> bool:
    profile = settings(
        max_examples=_EXAMPLES,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    try:
        run(one, server, profile, seed)
    except Exception:
        traceback.print_exc()
        print(f"once more: make fuzz ARGS='--seed {seed} --only {one.name}'")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
