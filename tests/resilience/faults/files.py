"""What happens to the folder of models, from a broken file to a hundred swaps."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import shutil
import time
import zipfile

from service.api.auth.keys import line_of, new_key
from tests.resilience.bench import Bench, Fault, NotHereError, Scene
from tests.resilience.service import Way, wait_until
from tests.resilience.traffic import MODEL, Terms

_PIECES = 6
_LOOKS_S = 0.6  # some looks at the repository
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_PR_CAPBSET_DROP = 24


def half_written(bench: Bench) -> None:
    """A file that grows in its place is no model until it is whole."""
    with bench.under_traffic() as scene:
        for number in range(1, bench.rounds(3, 1) + 1):
            tag = f"2.{number}"
            data = scene.repository.prepare(tag).read_bytes()
            path = scene.repository.file(2)
            path.parent.mkdir(exist_ok=True)
            step = -(-len(data) // _PIECES)
            with path.open("wb", buffering=0) as file:
                for start in range(0, len(data), step):
                    assert tag not in scene.traffic.tags
                    file.write(data[start : start + step])
                    time.sleep(_LOOKS_S)
            _wait_seen(scene, tag)
    assert "is not served" in scene.service.text()


def broken(bench: Bench) -> None:
    """Versions that are none, of all kinds: the one before goes on, and the log says why."""
    with bench.under_traffic() as scene:
        good = scene.repository.file(1).read_bytes()
        flipped = bytearray(good)
        flipped[len(good) // 2] ^= 0xFF
        archive = scene.repository.root.parent / "archive"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("model.onnx", good)
        kinds = [b"", b"no model", good[:-7], b"\xff" * 4096, archive.read_bytes(), good * 2]
        for data in kinds[: bench.rounds(len(kinds), 3)]:
            logged = len(scene.service.text())
            scene.repository.spoil(3, data)
            scene.service.wait_log("version 3 is not served", after=logged)
            scene.traffic.progress(20)
        scene.repository.remove(3)


def unreadable(bench: Bench) -> None:
    """Permissions go and come back, of a file, a version, the model and the whole folder."""
    way = Way(prepare=_obey_permissions)
    with bench.under_traffic(way=way, may_log="can't be read") as scene:
        repository = scene.repository
        repository.publish(2, "2.0")
        _wait_seen(scene, "2.0")
        paths = (repository.file(2), repository.file(2).parent, repository.model, repository.root)
        for path in paths:
            mode = path.stat().st_mode
            path.chmod(0)
            time.sleep(_LOOKS_S)
            scene.traffic.progress(50)
            path.chmod(mode)
        repository.publish(2, "2.1")
        _wait_seen(scene, "2.1")


def removed(bench: Bench) -> None:
    """A version goes, then the whole folder, and comes back."""
    with bench.under_traffic(may_log="can't be read") as scene:
        repository = scene.repository
        for number in range(1, bench.rounds(3, 1) + 1):
            repository.publish(2, f"2.{number}")
            _wait_seen(scene, f"2.{number}")
            repository.remove(2)
            scene.service.wait_log("version 2 is gone")
            scene.traffic.progress(50)
            away = repository.root.with_name("away")
            repository.root.rename(away)
            time.sleep(_LOOKS_S)
            scene.traffic.progress(50)
            away.rename(repository.root)
            repository.publish(1, f"1.{number}")
            _wait_seen(scene, f"1.{number}")


def replaced_by_file(bench: Bench) -> None:
    """A file stands where a folder was, and a folder where a file was."""
    with bench.under_traffic(may_log="can't be read") as scene:
        repository = scene.repository
        repository.publish(2, "2.0")
        _wait_seen(scene, "2.0")
        away = repository.root.with_name("away")
        for path in (repository.file(2), repository.file(2).parent, repository.root):
            was_folder = path.is_dir()
            path.rename(away)
            if was_folder:
                path.write_bytes(b"a file")
            else:
                path.mkdir()
            time.sleep(_LOOKS_S)
            scene.traffic.progress(50)
            if was_folder:
                path.unlink()
            else:
                path.rmdir()
            away.rename(path)
        repository.publish(2, "2.1")
        _wait_seen(scene, "2.1")


def swapped(bench: Bench) -> None:
    """A version is replaced again and again; every answer is of one file, whole and known."""
    with bench.under_traffic() as scene:
        for number in range(1, bench.rounds(100, 8) + 1):
            version = 1 + number % 2
            scene.repository.publish(version, f"{version}.{number}")
            if version == 2:
                _wait_seen(scene, f"2.{number}")
            else:
                wait_until(
                    lambda: scene.service.text().count("version 1 is ready") > number // 2,  # noqa: B023
                    "version 1",
                )


def unloaded(bench: Bench) -> None:
    """An operator unloads the only model and loads it again: 503 in between, and right answers."""
    key = new_key()
    bearer = {"Authorization": f"Bearer {key}"}
    terms = Terms(refusals=frozenset({"model_not_ready"}))
    for workers in (0, 2)[: bench.rounds(2, 1)]:
        keys = bench.place() / "keys.toml"
        keys.write_text(line_of("operator", key, ["predict", "manage"]) + "\n")
        with bench.under_traffic(
            "--api-keys-file", str(keys), workers=workers, terms=terms, headers=bearer
        ) as scene:
            for _ in range(bench.rounds(10, 3)):
                for what in ("unload", "load"):
                    connection = http.client.HTTPConnection(
                        "127.0.0.1", scene.service.port, timeout=60
                    )
                    with contextlib.closing(connection):
                        path = f"/v2/repository/models/{MODEL}/{what}"
                        connection.request("POST", path, b"", bearer)
                        answer = connection.getresponse()
                        text = answer.read()
                    if answer.status == 404 and what == "unload" and b"not_found" in text:
                        raise NotHereError("this service has no /v2/repository")
                    assert answer.status == 200, text
                    time.sleep(_LOOKS_S)
                scene.traffic.progress(50)
    assert bench.ledger.refused["model_not_ready"], "the model was never away"


def linked_away(bench: Bench) -> None:
    """Links that lead nowhere, in a circle, or to a device that never ends."""
    with bench.under_traffic() as scene:
        repository = scene.repository
        for target in ("nowhere", "model.onnx", "/dev/zero"):
            folder = repository.file(4).parent
            folder.mkdir()
            (folder / "model.onnx").symlink_to(target)
            os.mkfifo(folder / "pipe")
            time.sleep(_LOOKS_S)
            scene.traffic.progress(50)
            shutil.rmtree(folder)


def _wait_seen(scene: Scene, tag: str) -> None:
    wait_until(lambda: tag in scene.traffic.tags, f"an answer of {tag}", 60, scene.service)


def _obey_permissions() -> None:
    """Root reads everything; without these two capabilities it is held to permissions as well."""
    if os.geteuid() == 0:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            if prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
                raise PermissionError(ctypes.get_errno(), "can't give up a capability")


FAULTS = (
    Fault("half-written", "a model file is written slowly, in its place", half_written),
    Fault("broken", "new versions that are no models", broken),
    Fault("unreadable", "permissions of files and folders go and come back", unreadable),
    Fault("removed", "a version, then the whole repository is removed", removed),
    Fault("replaced-by-file", "files stand where folders were", replaced_by_file),
    Fault("links", "links to nowhere, to themselves, to a device; a pipe", linked_away),
    Fault("unloaded", "the model is unloaded and loaded again", unloaded),
    Fault("swaps", "live swaps of versions, one after the other", swapped),
)
