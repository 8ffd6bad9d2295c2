"""Where models run: the setting ``device`` as values, and how lanes are spread over several."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["cpu", "cuda", "tensorrt"]

LANES_A_GPU = 2  # while one copies, the other runs; see service.engine.gpu
_NAME = re.compile(r"(cuda|tensorrt)(?::(\d{1,3}))?")


@dataclass(frozen=True)
class Device:
    """One processor, and what runs models on it.

    Attributes:
        kind: ``cpu``, or what drives the GPU: ``cuda`` or ``tensorrt``.
        index: Number of the GPU, as CUDA counts them.
    """

    kind: Kind
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


CPU = Device("cpu")


@dataclass(frozen=True)
class Devices:
    """What a setting asks for.

    Attributes:
        each: One device or more, all of a kind.
        demanded: They must run; else the CPU may take their place.
    """

    each: tuple[Device, ...]
    demanded: bool = True


@functools.cache
def parse_devices(text: str) -> Devices:
    """Read ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``tensorrt:0,tensorrt:1`` and the like.

    Raises:
        ValueError: It is none of these; one line that says what is wrong.
    """
    if text == "auto":
        return Devices((Device("cuda"),), demanded=False)
    if text == "cpu":
        return Devices((CPU,))
    each = tuple(_parse_gpu(name.strip(), text) for name in text.split(","))
    if len({device.kind for device in each}) > 1:
        raise ValueError(f"{text!r} mixes cuda and tensorrt; one of them runs all models")
    if len(set(each)) < len(each):
        raise ValueError(f"{text!r} names a GPU twice; 'instances' says how many runs each has")
    return Devices(each)


def _parse_gpu(name: str, text: str) -> Device:
    match = _NAME.fullmatch(name)
    if match is None:
        if name != text:
            raise ValueError(f"{name!r} in {text!r} is no GPU; a list is like cuda:0,cuda:1")
        raise ValueError(
            f"{name!r} is none of auto, cpu, cuda and tensorrt; GPUs may be numbered and listed,"
            " as in cuda:0,cuda:1"
        )
    kind: Kind = "cuda" if match[1] == "cuda" else "tensorrt"
    return Device(kind, int(match[2] or 0))


def spread_lanes(devices: tuple[Device, ...], lanes: int) -> list[Device]:
    """The device of each lane, in turns, so that whichever lanes are busy, no GPU has them all."""
    return [devices[lane % len(devices)] for lane in range(lanes)]
