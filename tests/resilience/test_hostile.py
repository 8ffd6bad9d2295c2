"""Hostile input against a real service: all is refused as it should be, and the good goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.resilience.hostile import run_hostile
from tests.resilience.hostile.attack import hostile_inputs
from tests.resilience.hostile.exchange import act
from tests.resilience.hostile.foreign import foreign, formats
from tests.resilience.hostile.forms import part
from tests.resilience.hostile.inputs import CLASSIFY, HUNG_UP, EndOfInput, Input, head, raw
from tests.resilience.hostile.instances import PREDICT
from tests.resilience.hostile.tensors import INFER
from tests.resilience.ledger import Ledger
from tests.resilience.service import Service, Way, serving
from tests.resilience.traffic import MODEL
from tests.system.flood.pictures import write_model

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")

# Notes in a file which plugins of Pillow a process runs; Python itself imports a file of this name.
_WATCH = """
import os, sys

def note(event, arguments):
    if event == "exec" and "/PIL/" in (name := getattr(arguments[0], "co_filename", "")):
        with open(os.environ["PLUGINS_RUN"], "a") as file:
            print(os.path.basename(name), file=file)

sys.addaudithook(note)
"""
_LARGE_BYTES = 30 * 10**6
_PLUGINS_ALLOWED = {
    *("Avif", "Bmp", "Gif", "Jpeg", "Png", "Ppm", "Tiff", "WebP"),
    "Mpo",  # several JPEGs in one file, of which the first counts
}


@pytest.fixture
def models(tmp_path) -> Path:
    """The model whose labels are the identities of the good traffic's pictures."""
    root: Path = tmp_path / "models"
    write_model(root / MODEL / "1" / "model.onnx", "1")
    return root


def attack(
    server: Service, at_least: int, wanted: Callable[[Input], bool] = lambda _: True
) -> None:
    ledger = Ledger()
    report = run_hostile(server, ledger, wanted)
    print(f"\n{report.table()}\n{report.inputs} inputs, {report.good} good requests meanwhile")
    print(f"{report.rss_growth_mib:+.0f} MiB, {report.rss_peak_mib:+.0f} MiB at most")
    failures = [*report.failures, *ledger.complaints()]
    shown = "\n".join(failures[:30])
    assert not failures, f"{len(failures)} of {report.inputs}:\n{shown}"
    assert report.inputs >= at_least
    assert report.good > 100
    assert (report.lost, report.wrong, report.server_errors) == (0, 0, 0)
    assert "Traceback" not in server.text(), server.text()[server.text().index("Traceback") :][
        :3000
    ]


def every(number: int) -> Callable[[Input], bool]:
    """One of so many inputs."""
    seen = iter(range(1_000_000))
    return lambda _: next(seen) % number == 0


def test_every_hostile_input_is_refused_and_good_requests_are_answered(models, tmp_path):
    with serving(models, tmp_path, port=free_port()) as server:
        attack(server, at_least=600)


def test_two_workers_refuse_them_too(models, tmp_path):
    with serving(models, tmp_path, port=free_port(), workers=2) as server:
        attack(server, 60, every(9))


def test_only_the_decoders_on_the_list_are_ever_run(models, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(_WATCH)
    note = tmp_path / "plugins"
    note.touch()
    watched = Way({"PYTHONPATH": str(tmp_path), "PLUGINS_RUN": str(note)})
    wanted = {case.name for case in foreign()}
    assert len(list(formats())) >= 40
    with serving(models, tmp_path, port=free_port(), way=watched) as server:
        attack(server, len(wanted), lambda case: case.name in wanted)
    run = set(note.read_text().split())
    assert "PngImagePlugin.py" in run
    plugins = {name.removesuffix("ImagePlugin.py") for name in run if name.endswith("Plugin.py")}
    assert plugins <= _PLUGINS_ALLOWED


_FORM = b"Content-Type: multipart/form-data; boundary=xyz"
_JSON = b"Content-Type: application/json"
_LARGE = {
    "a picture that is cut short": (CLASSIFY, b"Content-Type: image/png", b"P6 5000 3000 255 "),
    "a JPEG without an end": (CLASSIFY, b"Content-Type: image/jpeg", b"\xff\xd8\xff\xda"),
    "a form": (CLASSIFY, _FORM, part(b"")[:-2]),
    "a document": (CLASSIFY, _JSON, b'{"images": ["'),
    "an array": (CLASSIFY, b"Content-Type: application/x-npy", b"\x93NUMPY\1\0\5\0{"),
    "a line": (CLASSIFY, b"Content-Type: application/x-ndjson", b'"'),
    "instances": (PREDICT, _JSON, b'{"instances": [{"b64": "'),
    "a tensor": (INFER, _JSON, b'{"inputs": ["'),
}


@pytest.mark.parametrize("gone", [False, True], ids=["refused", "hung up"])
def test_the_bodies_of_requests_that_fail_are_let_go_at_once(models, tmp_path, gone):
    """Not with the next collection of garbage: few objects may hold much, and it may be far."""
    with serving(models, tmp_path, port=free_port()) as server:
        usual_mib = server.settled().rss_mib
        for name, (target, kind, begin) in _LARGE.items():
            stated = b"Content-Length: %d" % _LARGE_BYTES
            body = begin.ljust(_LARGE_BYTES - gone, b"A")
            steps = (head(target, kind, stated), body, *((EndOfInput(),) if gone else ()))
            case = raw("large", name, "no good body", *steps)
            for _ in range(6):
                (answer,) = asyncio.run(act(server.port, case))
                assert answer.status in (HUNG_UP, 400, 422)
            more_mib = server.settled(0.3).rss_mib - usual_mib
            assert more_mib < 4 * _LARGE_BYTES / 2**20, name


def test_names_are_unique_and_every_input_says_what_is_expected():
    names, strict = set[tuple[str, str]](), 0
    for case in hostile_inputs():
        assert (case.kind, case.name) not in names
        names.add((case.kind, case.name))
        assert case.expected
        assert len(case.why) > 5
        strict += all(400 <= status < 500 for status in case.expected)
    assert strict >= 350
