from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading

import pytest

from service.log_stream import LogStream


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for each in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(each)


def test_lines_arrive_in_order(pipe):
    reader, writer = pipe
    stream = LogStream(writer)
    for number in range(1000):
        stream.write(f"{number}\n")
        stream.flush()
    stream.finish()
    os.close(writer)
    with open(reader, closefd=False) as lines:
        assert lines.read().split() == [str(number) for number in range(1000)]


def test_who_writes_never_waits_for_who_reads_and_is_told_what_was_lost(pipe, caplog):
    reader, writer = pipe
    stream = LogStream(writer, max_kept_chars=100_000)
    done = threading.Event()

    def write() -> None:
        for _ in range(10_000):
            stream.write("x" * 99 + "\n")
        stream.finish(0.1)
        done.set()

    threading.Thread(target=write, daemon=True).start()
    assert done.wait(60)
    lines = dropped = 0
    with caplog.at_level(logging.WARNING):
        while lines + dropped < 10_000:
            lines += os.read(reader, 65536).count(b"\n")
            told = [record.args for record in caplog.records if "dropped" in record.message]
            dropped = sum(count for (count,) in told)
    assert lines + dropped == 10_000
    assert lines >= 1000
    assert dropped > 5000


def test_a_pipe_without_a_reader_is_no_trouble(pipe):
    reader, writer = pipe
    os.close(reader)
    stream = LogStream(writer)
    for _ in range(10):
        stream.write("lost\n")
        stream.finish()


def test_a_forked_process_writes_its_own_lines():
    script = """
import logging, os, sys
from service.log_stream import LogHandler
logging.basicConfig(handlers=[LogHandler()], format="%(message)s")
logging.warning("parent before")
pid = os.fork()
logging.warning("child" if pid == 0 else "parent after")
if pid == 0:
    logging.shutdown()
    os._exit(0)
os.waitpid(pid, 0)
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    assert sorted(result.stderr.split("\n")) == ["", "child", "parent after", "parent before"]


def test_a_process_without_standard_error_logs_nowhere():
    script = (
        "import logging; from service.log_stream import LogHandler;"
        " logging.basicConfig(handlers=[LogHandler()]); logging.warning('x'); print('well')"
    )
    command = f'exec "{sys.executable}" -c "{script}" 2>&-'
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert result.stdout == "well\n"
