"""A real process whose networks hang on one picture: what becomes of it, and of everybody else."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.conftest import Server, serving
from tests.service import hanging_models
from tests.system.prometheus import Series, eventually, scrape, total

FLAGS = ("--device", "cpu", "--threads", "1", "--max-batch-size", "1", "--run-timeout-s", "0.5")
WHITE = 255


def picture(*color: int) -> bytes:
    buffer = io.BytesIO()
    side = hanging_models.SIDE_PX
    np.save(buffer, np.broadcast_to(np.array(color, np.uint8), (1, side, side, 3)))
    return buffer.getvalue()


def classify(client: httpx.Client, body: bytes, model: str) -> httpx.Response:
    return client.post("/v1/classify", params={"model": model, "top_k": 1}, content=body)


def first(answer: httpx.Response) -> int:
    assert answer.status_code == 200, answer.text
    class_id: int = answer.json()["results"][0]["predictions"][0]["class_id"]
    return class_id


def timed_out(series: Series, model: str, result: str) -> float:
    return total(series, "adaresnet_runs_timed_out_total", model=model, result=result)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hanging")
    hanging_models.looping(root / "looping" / "1")
    hanging_models.stuck(root / "stuck" / "1")
    return root


@contextlib.contextmanager
def others_ask(server: Server, model: str) -> Iterator[list[tuple[int, int]]]:
    """Clients that go on asking for coloured pictures; collects what they got and should have."""
    answers: list[tuple[int, int]] = []
    ending = False

    def ask(channel: int) -> None:
        color = [30, 30, 30]
        color[channel] = 220
        body = picture(*color)
        with server.client() as client:
            while not ending:
                answers.append((first(classify(client, body, model)), channel))

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask, channel) for channel in range(3)]
        try:
            yield answers
        finally:
            ending = True
            for one in asking:
                one.result(60)


@pytest.mark.parametrize(("model", "given_up"), [("looping", 0), ("stuck", 1)])
def test_a_run_that_hangs_harms_nobody_else(models, tmp_path, model, given_up):
    with serving(models, tmp_path, *FLAGS, "--instances", "2") as server:
        with others_ask(server, model) as answers, server.client() as client:
            eventually(lambda: len(answers) > 20)
            hanging = classify(client, picture(WHITE, WHITE, WHITE), model)
            assert hanging.status_code == 504
            assert hanging.json()["code"] == "run_timed_out"
            assert "run_timeout_s" in hanging.json()["hint"]
            told = len(answers)
            eventually(lambda: len(answers) > told + 20)
        assert all(got == wanted for got, wanted in answers)
        series = scrape(server.url)
        assert timed_out(series, model, "interrupted") == 1
        assert timed_out(series, model, "given_up") == given_up
        assert total(series, "adaresnet_instances", state="lost") == given_up
        idle_or_busy = total(series, "adaresnet_instances", state="idle")
        idle_or_busy += total(series, "adaresnet_instances", state="busy")
        assert idle_or_busy == 2
        failed = {"outcome": "failed", "reason": "run_timed_out"}
        assert total(series, "adaresnet_images_total", **failed) == 1
        with server.client() as client:
            assert client.get("/healthz").status_code == 200
            assert client.get("/readyz").status_code == 200
        if given_up:
            check_that_it_says_when_too_much_hangs(server)
    assert server.process.returncode == 0  # although a thread may still be in its run
    assert "Traceback" not in server.log.read_text()


def hang_until_it_is_too_much(client: httpx.Client) -> None:
    """Ask for what hangs; on a busy machine a run may be interrupted before it does."""

    def is_too_much() -> bool:
        assert classify(client, picture(WHITE, WHITE, WHITE), "stuck").status_code == 504
        return client.get("/healthz").status_code == 503

    eventually(is_too_much)


def check_that_it_says_when_too_much_hangs(server: Server) -> None:
    """A second run hangs, beside the first."""
    with server.client() as client:
        hang_until_it_is_too_much(client)
        assert "2 runs hang" in client.get("/healthz").json()["status"]
        assert client.get("/readyz").status_code == 503
        # What it still can, it does.
        assert first(classify(client, picture(200, 10, 10), "looping")) == 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_worker_in_which_too_much_hangs_is_replaced(models, tmp_path):
    flags = (*FLAGS, "--instances", "1", "--workers", "2")
    with serving(models, tmp_path, *flags) as server:

        def all_live() -> bool:
            with contextlib.suppress(httpx.TransportError):
                urls = [f"{server.url}/{path}" for path in ["healthz", "readyz"] * 12]
                return all(httpx.get(url).status_code == 200 for url in urls)
            return False

        eventually(all_live)  # the other worker, too, has loaded everything
        # All in the same worker, over one connection.
        with server.client() as client:
            hang_until_it_is_too_much(client)
        eventually(lambda: "is to be replaced: 2 runs hang" in server.log.read_text(), 30)

        eventually(all_live)
        with server.client() as client:
            assert first(classify(client, picture(10, 200, 10), "stuck")) == 1
        eventually(lambda: timed_out(scrape(server.url), "stuck", "given_up") == 2)
        assert server.process.poll() is None
    assert server.process.returncode == 0
