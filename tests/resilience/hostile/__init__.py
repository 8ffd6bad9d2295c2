"""Some hundred hostile inputs, against a real service with good traffic beside."""

from tests.resilience.hostile.attack import HostileReport, run_hostile

__all__ = ["HostileReport", "run_hostile"]
