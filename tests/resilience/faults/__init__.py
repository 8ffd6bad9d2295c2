"""Every fault, in the order in which they are injected."""

from tests.resilience.faults import files, processes, resources, stopping, surroundings

EVERY = (
    *processes.FAULTS,
    *files.FAULTS,
    *resources.FAULTS,
    *surroundings.FAULTS,
    *stopping.FAULTS,
)

__all__ = ["EVERY"]
