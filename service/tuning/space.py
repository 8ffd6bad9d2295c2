"""Which values of a setting are worth a trial, on this machine and beside the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from service.tuning.trials import Candidate

# More threads than this for each CPU only wait for one another.
_MAX_OVERSUBSCRIPTION = 2
_CPU_BATCH_SIZES = (0, 1, 4, 16)
_GPU_BATCH_SIZES = (0, 4, 16, 64)
_GPU_INSTANCES = (0, 1, 4)


@dataclass(frozen=True)
class Machine:
    """What bounds the choice.

    Attributes:
        cpus: That the service may use.
        gpu: Models run on one.
    """

    cpus: int
    gpu: bool = False


def alternatives(setting: str, incumbent: Candidate, machine: Machine) -> list[Candidate]:
    """The incumbent with other values of one setting, those first that one would rather have."""
    values = dict.fromkeys(_values(setting, incumbent, machine))
    found = [
        replace(incumbent, **{setting: value})
        for value in values
        if value != getattr(incumbent, setting)
    ]
    return [one for one in found if _busy_threads(one, machine) <= _most_threads(machine)]


def _values(setting: str, incumbent: Candidate, machine: Machine) -> Iterable[int]:
    share = max(1, machine.cpus // incumbent.workers)
    if setting == "workers":
        parts = [machine.cpus // divisor for divisor in (8, 4, 2, 1)]
        return sorted({1, *(part for part in parts if part)})
    if setting == "max_batch_size":
        return _GPU_BATCH_SIZES if machine.gpu else _CPU_BATCH_SIZES
    if setting == "threads":
        return [0] if machine.gpu else [0, 1, share]
    if machine.gpu:
        return _GPU_INSTANCES
    usual = _usual_instances(incumbent, machine)
    return [0, *(value for value in (usual // 2, usual * 2) if value)]


def _usual_instances(candidate: Candidate, machine: Machine) -> int:
    """What 0 instances mean on a CPU."""
    share = max(1, machine.cpus // candidate.workers)
    return max(1, share // max(1, candidate.threads))


def _busy_threads(candidate: Candidate, machine: Machine) -> int:
    if machine.gpu:
        return candidate.workers
    instances = candidate.instances or _usual_instances(candidate, machine)
    return candidate.workers * instances * max(1, candidate.threads)


def _most_threads(machine: Machine) -> int:
    return _MAX_OVERSUBSCRIPTION * machine.cpus
