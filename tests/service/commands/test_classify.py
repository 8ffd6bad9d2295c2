"""``adaresnet classify``, as real processes, here and through a real server."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from tests.conftest import ADARESNET, CLASSES, draw, free_port
from tests.service.client.flaky import flaky, silence


def classify(*args: object, **options) -> subprocess.CompletedProcess[str]:
    command = [str(ADARESNET), "classify", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, **options)


@pytest.fixture(params=["here", "server"])
def source(request: pytest.FixtureRequest) -> tuple[object, ...]:
    """Flags that say who classifies."""
    if request.param == "here":
        return "--models", request.getfixturevalue("exported").repository
    return "--url", request.getfixturevalue("server").url


@pytest.fixture
def asking(server) -> tuple[object, ...]:
    """The same where it does not matter: a server, whose models need not be loaded each time."""
    return "--url", server.url


@pytest.fixture
def folder(tmp_path, rng):
    """Three classes of five pictures each, a text file and a broken picture in a folder below."""
    root = tmp_path / "pictures"
    for name, index in itertools.product(CLASSES, range(5)):
        path = root / name / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(name, rng, (20, 20)).save(path)
    (root / "notes.txt").write_text("no picture")
    (root / "red" / "broken.jpg").write_bytes(b"junk")
    return root


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_folder_row_by_row(source, folder):
    done = classify(folder, "--recursive", *source)
    assert done.returncode == 1, done.stderr
    rows = rows_of(done.stdout)
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert len(rows) == 16
    for row in rows:
        if row["error"] is None:
            assert row["label"] == Path(row["path"]).parent.name
            assert row["labels"][0] == row["label"]
            assert row["probabilities"][0] == row["probability"]
            assert (row["model"], row["version"]) == ("colors", 1)
    (line,) = done.stderr.splitlines()
    assert "broken.jpg" in line
    assert "JPEG" in line


def test_here_and_there_say_the_same(exported, server, folder):
    here = classify(folder, "-r", "--models", exported.repository)
    there = classify(folder, "-r", "--url", server.url)
    for ours, theirs in zip(rows_of(here.stdout), rows_of(there.stdout), strict=True):
        assert ours.pop("probability") == pytest.approx(theirs.pop("probability"), abs=1e-4)
        assert ours.pop("probabilities") == pytest.approx(theirs.pop("probabilities"), abs=1e-4)
        assert ours == theirs
    assert here.stderr == there.stderr


def test_text_for_people(asking, folder):
    done = classify(folder / "red" / "0.png", folder / "red", *asking, "--format", "text")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{folder / 'red' / '0.png'}: red ")
    assert lines[0].endswith("%")
    assert lines[0] == lines[1]
    assert len(lines) == 6


def test_files(asking, folder, tmp_path):
    for name in ("x.csv", "x.jsonl", "x.parquet"):
        done = classify(folder, "-r", *asking, "--output", tmp_path / name, "--top-k", "2")
        assert done.returncode == 1, done.stderr
        assert done.stdout == ""
        failure, summary = done.stderr.splitlines()
        assert "broken.jpg" in failure
        assert summary.startswith(f"wrote {tmp_path / name}: 16 images, 1 failed")
    with (tmp_path / "x.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    lines = rows_of((tmp_path / "x.jsonl").read_text())
    parquet = pyarrow.parquet.read_table(tmp_path / "x.parquet").to_pylist()
    for key in ("path", "label", "error"):
        assert [row[key] or None for row in table] == [row[key] for row in lines]
        assert [row[key] for row in parquet] == [row[key] for row in lines]
    assert {len(row["labels"]) for row in lines} == {0, 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "pictures", "x.csv", "x.jsonl", "x.parquet",
    ]  # fmt: skip


def test_lists_of_files(asking, folder, tmp_path):
    names = [folder / "blue" / "1.png", folder / "green", tmp_path / "none.png"]
    text = "\n".join(map(str, names))
    (tmp_path / "list").write_text(text)
    for args, stdin in (
        (("--files-from", tmp_path / "list"), None),
        (("--files-from", "-"), text),
        (("--files-from", "-", "-0"), text.replace("\n", "\0")),
    ):
        done = classify(*args, *asking, input=stdin)
        assert done.returncode == 1
        labels = [row["label"] for row in rows_of(done.stdout)]
        assert labels == ["blue", *["green"] * 5, None]
        assert "none.png: It can't be read: No such file or directory." in done.stderr
    done = classify("--files-from", "-", *asking, input="")
    assert (done.returncode, done.stdout) == (0, "")


def test_one_picture_on_standard_input(source, folder):
    with (folder / "green" / "0.png").open("rb") as stdin:
        done = classify("-", *source, stdin=stdin)
    (row,) = rows_of(done.stdout)
    assert (row["path"], row["label"]) == ("-", "green")


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_of_any_bytes(exported, folder):
    for name in (b"\xff.png", "grün.png".encode(), b"a\nb.png"):
        shutil.copy(folder / "red" / "0.png", os.fsencode(folder) + b"/" + name)
    done = classify(folder, "--models", exported.repository)
    assert done.returncode == 0, done.stderr
    names = [Path(row["path"]).name for row in rows_of(done.stdout)]
    assert sorted(names) == ["\\xff.png", "a\\nb.png", "grün.png"]


def test_a_thousand_images_in_order(source, folder, tmp_path):
    names = [folder / name / f"{index % 5}.png" for index in range(400) for name in CLASSES]
    listed = "\0".join(map(str, names))
    done = classify("--files-from", "-", "-0", *source, input=listed)
    assert done.returncode == 0, done.stderr
    rows = rows_of(done.stdout)
    assert [row["path"] for row in rows] == list(map(str, names))
    assert [row["label"] for row in rows] == [path.parent.name for path in names]


def test_wrong_usage(folder, tmp_path, exported, run_here):
    picture = folder / "red" / "0.png"
    here = ("--models", exported.repository)
    for args, word in (
        ((), "--files-from"),
        ((picture, "--top-k", "0"), "top-k"),
        ((picture, "--top-k", "x"), "top-k"),
        ((picture, "--output", tmp_path / "x.txt"), ".parquet"),
        ((picture, "--output", tmp_path / "none" / "x.csv"), "none"),
        ((picture, "--output", tmp_path / "x.csv", "--format", "csv"), "--format"),
        ((picture, "-0"), "--files-from"),
        (("-", "--files-from", "-"), "standard input"),
        ((picture, "--files-from", tmp_path / "none"), "none"),
        ((picture, "--timeout", "0"), "timeout"),
        ((picture, "--url", "localhost:8000"), "http://"),
        ((picture, "--url", "http://localhost", *here), "not allowed"),
        ((picture, "--models", tmp_path / "none"), "none"),
        ((tmp_path, *here), "no picture"),
    ):
        status, _, errors = run_here("classify", *args)
        assert status == 2, (args, errors)
        assert word in errors, (args, errors)


def test_no_answer_at_all(folder, tmp_path, exported, server):
    picture = folder / "red" / "0.png"
    for args, word in (
        (("--url", f"http://127.0.0.1:{free_port()}"), "refused"),
        (("--url", server.url, "--model", "dogs"), "colors"),
        (("--models", exported.repository, "--model", "dogs"), "colors"),
    ):
        done = classify(picture, *args, "--output", tmp_path / "x.csv")
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert word in line
        assert not (tmp_path / "x.csv").exists()


def test_flags_win_over_the_environment(folder, exported, server):
    picture = folder / "red" / "0.png"
    env = {**os.environ, "ADARESNET_URL": f"http://127.0.0.1:{free_port()}"}
    assert classify(picture, env=env).returncode == 1
    assert classify(picture, "--models", exported.repository, env=env).returncode == 0
    assert classify(picture, "--url", server.url, env=env).returncode == 0
    env["ADARESNET_URL"] = server.url
    assert classify(picture, env=env).returncode == 0


@contextlib.contextmanager
def endless(source: tuple[object, ...], picture: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that classifies one picture again and again."""
    feeding = "import sys\nwhile True: sys.stdout.write(sys.argv[1] + chr(10))"
    with subprocess.Popen(
        [sys.executable, "-c", feeding, str(picture)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as feeder:
        assert feeder.stdout is not None
        with subprocess.Popen(
            [str(ADARESNET), "classify", "--files-from", "-", *map(str, source)],
            stdin=feeder.stdout,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            feeder.stdout.close()  # the feeder ends when the process does
            try:
                yield process
            finally:
                process.kill()


def test_a_reader_that_leaves_ends_it_quietly(source, folder):
    with endless(source, folder / "red" / "0.png") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["label"] == "red"
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""


def test_interrupt_ends_it_at_once(source, folder):
    with endless(source, folder / "red" / "0.png") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert errors == b"interrupted\n"


def test_interrupt_does_not_wait_for_a_server_that_is_silent(server, folder, tmp_path):
    with flaky(server.url, silence, silence, silence) as proxy:
        command = [
            str(ADARESNET), "classify", str(folder), "-r", "--url", proxy.url, "--timeout", "100",
            "--output", str(tmp_path / "x.csv"),
        ]  # fmt: skip
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        until = time.monotonic() + 60
        while not proxy.connections and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == b"interrupted\n"
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_progress_on_a_terminal(source, folder, tmp_path):
    """The line is drawn after half a second of work, and gone at the end."""
    names = [folder / "red" / f"{index % 5}.png" for index in range(20_000)]
    (tmp_path / "list").write_text("\n".join(map(str, names)))
    master, slave = pty.openpty()
    command = [
        str(ADARESNET), "classify", "--files-from", str(tmp_path / "list"), *map(str, source),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=slave) as process:
        os.close(slave)
        shown = b""
        while b"images/s" not in shown and select.select([master], [], [], 60)[0]:
            shown += os.read(master, 4096)
        process.send_signal(signal.SIGINT)
        while True:
            try:
                shown += os.read(master, 4096)
            except OSError:  # the other end is closed
                break
        assert process.wait(60) == 130
    os.close(master)
    assert b" failed" in shown
    assert shown.endswith(b"\r\x1b[Kinterrupted\r\n")
