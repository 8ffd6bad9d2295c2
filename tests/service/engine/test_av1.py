from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.av1 import frame_sizes
from service.engine.errors import ImageDecodeError

KEY, INTER, SWITCH = 0, 1, 3
SEQUENCE, DELIMITER, HEADER, FRAME, PADDING = 1, 2, 3, 6, 15
FLAG = st.integers(0, 1)


def sizes(*units: bytes) -> list[tuple[int, int]]:
    return list(frame_sizes(memoryview(b"".join(units)), lambda: None))


def unit(kind: int, data: bytes = b"", *, extension: bytes = b"", length: bool = True) -> bytes:
    """An OBU (section 5.3)."""
    head = bytes([kind << 3 | bool(extension) << 2 | length << 1]) + extension
    return head + (leb128(len(data)) if length else b"") + data


def leb128(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + leb128(rest) if rest else bytes([low])


def packed(*fields: tuple[int, int]) -> bytes:
    """Values in so many bits each, and the bit that ends a header."""
    bits = "".join(f"{value:0{size}b}" for value, size in fields if size) + "1"
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))


def still(width: int, height: int) -> bytes:
    """The header of a sequence of one frame, which has the shortest form."""
    return unit(
        SEQUENCE,
        packed((0, 3), (1, 1), (1, 1), (31, 5), (15, 4), (15, 4), (width - 1, 16), (height - 1, 16))
        + bytes(4),
    )


@st.composite
def sequences(draw: st.DrawFn) -> tuple[bytes, tuple[int, int], tuple[int, int], bytes, bool]:
    """A header with any choices; its size, the largest, and a frame with or without its own."""
    fields = [(draw(st.integers(0, 2)), 3), (draw(FLAG), 1), (0, 1)]
    put = fields.append

    def flag() -> int:
        put((draw(FLAG), 1))
        return fields[-1][0]

    delay = time = 0
    if flag():  # timing_info_present_flag
        put((draw(st.integers(0, 2**64 - 1)), 64))
        equal = flag()
        if equal:
            zeros = draw(st.integers(0, 31))
            put((1, zeros + 1))
            put((draw(st.integers(0, 2**zeros - 1)), zeros))
        if flag():  # decoder_model_info_present_flag
            delay = draw(st.integers(1, 32))
            put((delay - 1, 5))
            put((draw(st.integers(0, 2**37 - 1)), 37))
            presentation = draw(st.integers(1, 32))
            put((presentation - 1, 5))
            time = 0 if equal else presentation
    initial = flag()
    points = draw(st.integers(1, 32))
    put((points - 1, 5))
    for _ in range(points):
        put((draw(st.integers(0, 2**12 - 1)), 12))
        level = draw(st.integers(0, 31))
        put((level, 5))
        if level > 7:
            flag()
        if delay and flag():
            put((draw(st.integers(0, 2 ** (2 * delay + 1) - 1)), 2 * delay + 1))
        if initial and flag():
            put((draw(st.integers(0, 15)), 4))
    bits = draw(st.integers(1, 16)), draw(st.integers(1, 16))
    size = draw(st.integers(1, 2 ** bits[0])), draw(st.integers(1, 2 ** bits[1]))
    fields += [(bits[0] - 1, 4), (bits[1] - 1, 4), (size[0] - 1, bits[0]), (size[1] - 1, bits[1])]
    number = 0
    if flag():  # frame_id_numbers_present_flag
        put((draw(st.integers(0, 15)), 4))
        put((draw(st.integers(0, 7)), 3))
        number = fields[-2][0] + 2 + fields[-1][0] + 1
    put((draw(st.integers(0, 127)), 7))
    ordered = flag()
    if ordered:
        put((draw(st.integers(0, 3)), 2))
    tools = 2 if flag() else flag()
    motion = 2
    if tools:
        motion = 2 if flag() else flag()
    put((draw(st.integers(0, 2**20)), 40))  # what else there is
    header = packed(*fields)

    kind, shown = draw(st.sampled_from([KEY, INTER, 2, SWITCH])), draw(FLAG)
    frame = [(0, 1), (kind, 2), (shown, 1)]
    if shown:
        frame.append((draw(st.integers(0, 2**time - 1)), time))
    else:
        frame.append((draw(FLAG), 1))
    if kind != SWITCH and not (kind == KEY and shown):
        frame.append((draw(FLAG), 1))
    frame.append((draw(FLAG), 1))
    if tools == 2:
        tools = draw(FLAG)
        frame.append((tools, 1))
    if tools and motion == 2:
        frame.append((draw(FLAG), 1))
    frame.append((draw(st.integers(0, 2**number - 1)), number))
    own = kind == SWITCH
    if not own:
        own = bool(draw(FLAG))
        frame.append((own, 1))
    frame.append((draw(st.integers(0, 2**20)), 40))
    return header, size, (2 ** bits[0], 2 ** bits[1]), packed(*frame), own


@given(sequences(), st.sampled_from([HEADER, FRAME]))
def test_any_headers(sequence, kind):
    """A frame without a size of its own has its sequence's; another may have any that fits."""
    header, size, largest, frame, own = sequence
    shown_again = unit(HEADER, packed((1, 1), (5, 3)))
    found = sizes(unit(SEQUENCE, header), unit(kind, frame), shown_again)
    assert found == [largest if own else size, size]


def test_a_still_picture():
    assert sizes(unit(DELIMITER), still(6400, 65536), unit(FRAME, b"\xff")) == [(6400, 65536)]


def test_every_frame_and_every_sequence_counts():
    units = [still(8, 9), unit(FRAME), unit(PADDING, still(99, 99)), unit(FRAME), still(50, 60)]
    assert sizes(*units, unit(7), b"\0" * 9) == [(8, 9), (8, 9), (50, 60)]
    assert sizes(*units) == [(8, 9), (8, 9)]


def test_units_may_have_an_extension_or_no_length():
    header = still(8, 9)[2:]
    units = unit(SEQUENCE, header, extension=b"\x08"), unit(FRAME, length=False)
    assert sizes(*units) == [(8, 9)]
    assert sizes(unit(SEQUENCE, header, length=False)) == []
    assert sizes(unit(DELIMITER, length=False), b"anything") == []


def test_each_unit_is_counted():
    counted = count()
    list(frame_sizes(memoryview(unit(DELIMITER) * 7), lambda: next(counted)))
    assert next(counted) == 7


@pytest.mark.parametrize(
    "data",
    [
        unit(FRAME, b"\xff"),
        unit(SEQUENCE, b"\x1f\xf3"),
        unit(SEQUENCE, b"\x04" + bytes(7) + b"\x02" + bytes(600)),  # a number that never begins
        b"\x12",
        b"\x16\0",
        b"\x12" + b"\xff" * 9,
    ],
)
def test_damaged_headers(data):
    with pytest.raises(ImageDecodeError, match="headers of its AV1 data"):
        sizes(data)


def test_units_that_go_on_behind_the_end():
    """A decoder stops there, whatever comes."""
    assert sizes(still(8, 9), unit(FRAME), b"\x32\x05\0") == [(8, 9)]
