"""The pictures that are sent: people's own, or JPEG files drawn with the standard library alone.

A drawn file is written where JPEG ends up anyway, as coefficients of 8 x 8 blocks: soft colours
that wander from block to block, with a few low frequencies in each. So no image library is needed,
and it is decoded like any other file.

Source: ITU-T T.81, annexes A, B and F.
"""

from __future__ import annotations

import random
import struct
from pathlib import Path

from service.picture_files import find_pictures

_SEED = 20261121
_FEWEST, _MOST = 4, 32
_DRAWN_PX = 2**22  # of all pictures together, about; a million take a second or two
_LARGEST_PX = 2048
_BLOCK_PX = 8

# Steps of the coefficients, about those of quality 80; T.81, annex K, has the numbers for 50.
_STEPS = bytes(6 + 2 * (place // 4) for place in range(64))
_FREQUENCIES = 9  # of a block, the lowest ones
_BRIGHT, _COLORED = 110, 45  # how far the means of blocks go from the middle, in steps

# Every code has four bits. A value is coded as its size in bits, then its bits.
_CODE_BITS = 4
_MEAN_SIZES = bytes(range(12))
_FREQUENCY_SIZES = bytes(range(8))  # 0 says that all further coefficients are 0


def read_pictures(where: Path) -> dict[str, bytes]:
    """The files of a folder, or a file, by name.

    Raises:
        ValueError: There is none.
        OSError: One can't be read.
    """
    return {str(path): path.read_bytes() for path in find_pictures(where)}


def draw_pictures(height: int, width: int) -> dict[str, bytes]:
    """Draw JPEG files, the same ones every time.

    Args:
        height: Pixels.
        width: Pixels.

    Raises:
        ValueError: They would be very large.
    """
    if not (0 < height <= _LARGEST_PX and 0 < width <= _LARGEST_PX):
        raise ValueError(f"pictures of {width} x {height} px are not drawn; --images has your own")
    generator = random.Random(f"{_SEED} {height} {width}")  # noqa: S311, no secret
    count = max(_FEWEST, min(_MOST, _DRAWN_PX // (height * width)))
    return {f"drawn picture {n}": _draw(generator, height, width) for n in range(count)}


def _draw(generator: random.Random, height: int, width: int) -> bytes:
    head = b"".join((
        b"\xff\xd8",
        _segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
        _segment(0xDB, b"\0" + _STEPS),
        _segment(0xC0, struct.pack(">BHHB", 8, height, width, 3), *(
            bytes((component, 0x11, 0)) for component in (1, 2, 3)
        )),
        _segment(0xC4, b"\x00", _code_lengths(_MEAN_SIZES), _MEAN_SIZES),
        _segment(0xC4, b"\x10", _code_lengths(_FREQUENCY_SIZES), _FREQUENCY_SIZES),
        _segment(0xDA, b"\3\1\0\2\0\3\0\0\x3f\0"),
    ))  # fmt: skip
    return head + _scan(generator, height, width) + b"\xff\xd9"


def _segment(marker: int, *parts: bytes) -> bytes:
    payload = b"".join(parts)
    return bytes((0xFF, marker)) + struct.pack(">H", 2 + len(payload)) + payload


def _code_lengths(values: bytes) -> bytes:
    counts = bytearray(16)
    counts[_CODE_BITS - 1] = len(values)
    return bytes(counts)


def _scan(generator: random.Random, height: int, width: int) -> bytes:
    blocks = -(-height // _BLOCK_PX) * -(-width // _BLOCK_PX)
    words: list[str] = []
    means, before = [0, 0, 0], [0, 0, 0]
    reaches = (_BRIGHT, _COLORED, _COLORED)
    for _ in range(blocks):
        for component, reach in enumerate(reaches):
            pull = means[component] // 8  # back to the middle
            mean = means[component] - pull + generator.randint(-reach // 4, reach // 4)
            means[component] = max(-reach, min(reach, mean))
            words.append(_value(means[component] - before[component]))
            before[component] = means[component]
            for place in range(_FREQUENCIES if component == 0 else 2):
                strength = 1 + 14 // (1 + place)
                value = generator.randint(1, strength) * generator.choice((-1, 1))
                words.append(_value(value))
            words.append(_code(0))
    bits = "".join(words)
    bits += "1" * (-len(bits) % 8)
    packed = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return packed.replace(b"\xff", b"\xff\0")


def _value(value: int) -> str:
    size = abs(value).bit_length()
    if not size:
        return _code(0)
    # Negative values are coded as one less in two's complement.
    bits = value if value > 0 else value + (1 << size) - 1
    return f"{_code(size)}{bits:0{size}b}"


def _code(size: int) -> str:
    # Codes of one length count up from 0.
    return f"{size:0{_CODE_BITS}b}"
