"""How large the frames in AV1 data are, as a decoder will make them (AV1 specification, section 5).

Of each unit (OBU) only as much is read as says that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from service.engine.errors import ImageDecodeError
from service.engine.screening import odd

_SEQUENCE, _FRAMES = 1, (3, 6, 7)  # kinds of units: a header of all frames, and those of one frame
_KEY, _SWITCH = 0, 3  # kinds of frames
_EACH_SAYS = 2  # where a sequence may say yes, no, or that each frame does
# What is read of a unit takes less, even with all 32 operating points.
_HEADER_BYTES = 512
_MOST_LENGTH_BYTES = 8


@dataclass(frozen=True)
class _Sequence:
    """What a sequence header says of its frames.

    Attributes:
        size: Width and height of a frame, unless it has its own.
        largest: What a frame may state as its own.
        is_still: It has one frame, without a size of its own.
        time_bits: Of a shown frame's time.
        screen_content: Whether frames use tools for screen content.
        whole_motion: Whether their motion is of whole pixels then.
        id_bits: Of a frame's number.
    """

    size: tuple[int, int]
    largest: tuple[int, int]
    is_still: bool
    time_bits: int
    screen_content: int
    whole_motion: int
    id_bits: int


class _Bits:
    """Bits of a header, from the highest on."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data), 8 * len(data)

    def __call__(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise _damaged()
        return self._value >> self._left & (1 << count) - 1


def frame_sizes(data: memoryview, count: Callable[[], object]) -> Iterator[tuple[int, int]]:
    """Width and height of every frame, whether it is shown or not.

    Of a frame with a size of its own, the largest that its sequence lets it have.

    Args:
        data: What a decoder is given at once. Where it breaks off in a unit, the decoder ends too.
        count: Called for each unit.

    Raises:
        ImageDecodeError: A header is damaged.
    """
    sequence = None
    at = 0
    while at < len(data):
        count()
        kind, has_extension, has_length = data[at] >> 3 & 15, data[at] >> 2 & 1, data[at] >> 1 & 1
        at += 1 + has_extension
        length = len(data) - at
        if has_length:
            length, at = _length(data, at)
        if length > len(data) - at:
            return
        bits = _Bits(bytes(data[at : at + min(length, _HEADER_BYTES)]))
        at += length
        if kind == _SEQUENCE:
            sequence = _read_sequence(bits)
        elif kind in _FRAMES:
            # It would be of a sequence that the decoder has seen elsewhere.
            if sequence is None:
                raise _damaged()
            yield sequence.largest if _has_own_size(bits, sequence) else sequence.size


def _length(data: memoryview, at: int) -> tuple[int, int]:
    """A length in leb128, and where it ends."""
    length = 0
    for index, byte in enumerate(data[at : at + _MOST_LENGTH_BYTES]):
        length |= (byte & 127) << 7 * index
        if byte < 128:
            return length, at + index + 1
    raise _damaged()


def _read_sequence(bits: _Bits) -> _Sequence:
    """Section 5.5.1, as far as the choices that a frame's header depends on."""
    bits(3 + 1)  # seq_profile, still_picture
    is_still = bool(bits(1))  # reduced_still_picture_header
    time_bits = 0
    if is_still:
        bits(5)  # seq_level_idx
    else:
        time_bits = _read_operating_points(bits)
    width_bits, height_bits = bits(4) + 1, bits(4) + 1
    size = bits(width_bits) + 1, bits(height_bits) + 1
    id_bits = 0
    if not is_still and bits(1):  # frame_id_numbers_present_flag
        id_bits = bits(4) + 2 + 1
        id_bits += bits(3)
    bits(3)  # superblocks, two filters
    screen_content = whole_motion = _EACH_SAYS
    if not is_still:
        bits(4)  # kinds of prediction
        has_order = bits(1)
        bits(2 * has_order)
        screen_content = _EACH_SAYS if bits(1) else bits(1)
        if screen_content:
            whole_motion = _EACH_SAYS if bits(1) else bits(1)
    largest = 1 << width_bits, 1 << height_bits
    return _Sequence(size, largest, is_still, time_bits, screen_content, whole_motion, id_bits)


def _read_operating_points(bits: _Bits) -> int:
    """Sections 5.5.3 to 5.5.5 and what is around them; how many bits a frame's time has."""
    delay_bits = time_bits = 0
    if bits(1):  # timing_info_present_flag
        bits(32 + 32)  # num_units_in_display_tick, time_scale
        has_equal_intervals = bits(1)
        if has_equal_intervals:
            _skip_variable_length(bits)
        if bits(1):  # decoder_model_info_present_flag
            delay_bits = bits(5) + 1
            bits(32 + 5)  # num_units_in_decoding_tick, length of a removal's time
            time_bits = 0 if has_equal_intervals else bits(5) + 1
            if has_equal_intervals:
                bits(5)
    has_initial_delay = bits(1)
    for _ in range(bits(5) + 1):
        bits(12)  # operating_point_idc
        if bits(5) > 7:  # seq_level_idx
            bits(1)  # seq_tier
        if delay_bits and bits(1):
            bits(2 * delay_bits + 1)  # two delays, low_delay_mode_flag
        if has_initial_delay and bits(1):
            bits(4)
    return time_bits


def _skip_variable_length(bits: _Bits) -> None:
    zeros = 0
    while not bits(1):
        zeros += 1
    bits(zeros)


def _has_own_size(bits: _Bits, sequence: _Sequence) -> bool:
    """Section 5.9.2, as far as frame_size_override_flag."""
    if sequence.is_still or bits(1):  # or show_existing_frame
        return False
    kind, is_shown = bits(2), bits(1)
    bits(sequence.time_bits if is_shown else 1)  # its time, or showable_frame
    if kind != _SWITCH and not (kind == _KEY and is_shown):
        bits(1)  # error_resilient_mode
    bits(1)  # disable_cdf_update
    screen_content = sequence.screen_content
    if screen_content == _EACH_SAYS:
        screen_content = bits(1)
    if screen_content and sequence.whole_motion == _EACH_SAYS:
        bits(1)
    bits(sequence.id_bits)
    return kind == _SWITCH or bool(bits(1))


def _damaged() -> ImageDecodeError:
    return odd("the headers of its AV1 data are damaged")
