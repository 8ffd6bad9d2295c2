from __future__ import annotations

import errno
import json

import pytest
from prometheus_client.mmap_dict import mmap_key

from service.engine import metric_files
from service.engine.metric_files import ReservedFile, SoundFiles


@pytest.fixture
def opened():
    """Opens files that are closed afterwards."""
    files = []

    def open_file(path) -> ReservedFile:
        files.append(ReservedFile(str(path)))
        return files[-1]

    yield open_file
    for file in files:
        file.close()


def key(number: int) -> str:
    return mmap_key("requests", "requests_total", ["route"], [f"/{number}"], "help")


def total(folder) -> float:
    return sum(sample.value for metric in SoundFiles(folder).collect() for sample in metric.samples)


def fill(file: ReservedFile, count: int = 2000) -> None:
    for number in range(count):
        file.write_value(key(number), 1.0, 0.0)  # type: ignore[no-untyped-call]


def test_values_are_kept_over_a_new_start_and_added_up(tmp_path, opened):
    for worker in (0, 1):
        file = opened(tmp_path / f"counter_{worker}.db")
        fill(file)
        file.close()
    again = opened(tmp_path / "counter_0.db")
    assert again.read_value(key(7))[0] == 1.0
    again.write_value(key(7), 3.0, 0.0)
    assert total(tmp_path) == 4002


def test_every_byte_of_a_file_has_a_place_on_the_disk(tmp_path, opened):
    path = tmp_path / "counter_0.db"
    fill(opened(path))
    stat = path.stat()
    assert stat.st_blocks * 512 >= stat.st_size > 2**17


def test_a_worker_without_room_counts_for_itself(tmp_path, opened, monkeypatch, caplog):
    path = tmp_path / "counter_0.db"
    file = opened(path)
    file.write_value(key(0), 5.0, 0.0)

    def full(descriptor: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(metric_files, "_reserve", full)
    fill(file)
    fill(file)
    assert file.read_value(key(1999))[0] == 1.0
    assert caplog.text.count("no room for the metrics file counter_0.db") == 1
    assert total(tmp_path) > 0  # what was counted before
    alone = opened(tmp_path / "counter_1.db")
    fill(alone)
    assert alone.read_value(key(3))[0] == 1.0


@pytest.mark.parametrize(
    "damage",
    [
        b"\xff" * 64,
        b"\x10\x00\x00\x00\x00\x00\x00\x00" + b"\xf0" * 64,
        b"\x40\x00\x00\x00\0\0\0\0\x04\x00\x00\x00\xff\xff\xff\xff",
        b"\x40\x00\x00\x00\0\0\0\0\xf4\xff\xff\xff",
        b"abc",
    ],
)
def test_a_damaged_file_is_left_out_and_begun_anew(tmp_path, opened, damage, caplog):
    good, bad = (tmp_path / f"counter_{worker}.db" for worker in (0, 1))
    for path in (good, bad):
        fill(opened(path), 10)
    data = bad.read_bytes()
    bad.write_bytes(damage if len(damage) < 8 else damage + data[len(damage) :])
    assert total(tmp_path) == 10
    assert "counter_1.db is damaged" in caplog.text
    fill(opened(bad), 20)
    assert total(tmp_path) == 30


def test_a_file_whose_keys_mean_nothing_is_left_out(tmp_path, opened):
    fill(opened(tmp_path / "counter_0.db"), 10)
    strange = opened(tmp_path / "counter_1.db")
    strange.write_value(json.dumps({"no": "key"}), 1.0, 0.0)
    assert total(tmp_path) == 10
