"""What a server answers, through both clients; the server is real."""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import itertools
import json
import pickle
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from service.client import (
    AnswerError,
    AsyncClient,
    Client,
    ConnectionFailedError,
    ImageError,
    RequestRefusedError,
    TimedOutError,
)
from tests.conftest import ADARESNET, CLASSES, draw, free_port, serving


@pytest.fixture
def pictures(rng):
    """One of each class."""
    return {name: draw(name, rng, (20, 24)) for name in CLASSES}


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_one_image_in_every_form(connect, server, pictures, tmp_path):
    with connect(server.url) as client:
        for name, picture in pictures.items():
            path = tmp_path / f"{name}.png"
            path.write_bytes(png(picture))
            with path.open("rb") as file:
                forms = [
                    str(path),
                    path,
                    png(picture),
                    bytearray(png(picture)),
                    memoryview(png(picture)),
                    io.BytesIO(png(picture)),
                    file,
                    picture,
                    np.asarray(picture),
                ]
                results = [client.classify(form) for form in forms]
            for result in results:
                assert result.top.label == name
                assert len(result.predictions) == len(CLASSES)
                assert result.top.probability == pytest.approx(results[0].top.probability, abs=1e-4)
            assert results[0].source == results[1].source == results[6].source == str(path)
            assert results[2].source is None


def test_a_result_says_what_the_server_said(connect, server, pictures, client):
    with connect(server.url) as ours:
        result = ours.classify(pictures["red"], model="colors", version=1, top_k=2)
    raw = client.post("/v1/classify", params={"top_k": 2}, content=png(pictures["red"])).json()
    for each, row in zip(result.predictions, raw["results"][0]["predictions"], strict=True):
        assert (each.class_id, each.label) == (row["class_id"], row["label"])
        assert each.probability == pytest.approx(row["probability"], abs=1e-4)
    assert result.top is result.predictions[0]
    assert (result.model, result.version, result.index) == ("colors", 1, 0)
    assert result.error is None
    assert result.request_id


def test_many_images_of_all_kinds_come_back_in_order(connect, server, pictures, tmp_path):
    path = tmp_path / "green.png"
    path.write_bytes(png(pictures["green"]))
    kinds = [
        (pictures["red"], "red"),
        (np.asarray(pictures["blue"]), "blue"),
        (path, "green"),
        (png(pictures["blue"]), "blue"),
        (np.asarray(pictures["red"].resize((9, 9))), "red"),
        (np.asarray(pictures["green"].resize((9, 9))), "green"),
    ]
    asked = list(itertools.islice(itertools.cycle(kinds), 157))
    with connect(server.url) as client:
        results = list(client.classify_many((image for image, _ in asked), batch_size=8))
    assert [result.index for result in results] == list(range(157))
    assert [result.top.label for result in results] == [label for _, label in asked]


def test_an_array_of_many_images(connect, server, pictures):
    names = [*CLASSES, *CLASSES[::-1]] * 10
    stack = np.stack([np.asarray(pictures[name]) for name in names])
    with connect(server.url) as client:
        labels = [result.top.label for result in client.classify_many(stack)]
        grey = list(client.classify_many(stack[..., 0]))
        assert client.classify(stack[0][:, :3, 0]).predictions  # grey, three pixels wide
    assert labels == names
    assert len(grey) == len(names)


def test_a_bad_image_loses_no_other(connect, server, pictures, tmp_path):
    good = png(pictures["red"])
    images = [good, b"junk", good, tmp_path / "none.png", np.zeros((4, 4)), None, good, b"", "\0"]
    with connect(server.url) as client:
        results = list(client.classify_many(images))
        assert [result.error is None for result in results] == [
            True, False, True, False, False, False, True, False, False,
        ]  # fmt: skip
        codes = [result.error.code for result in results if result.error]
        assert codes[:4] == [
            "image_undecodable", "unreadable_file", "unsupported_image", "unsupported_image",
        ]  # fmt: skip
        bad = results[3]
        with pytest.raises(ImageError, match=r"image 3 \(.*none.png\).*No such file"):
            _ = bad.predictions
        assert isinstance(bad.error, ImageError)
        assert isinstance(bad.error.__cause__, FileNotFoundError)
        assert "float64" in str(results[4].error)
        assert results[2].top.label == "red"
        many = client.classify_many(images, on_error="raise", batch_size=1, in_flight=1)
        assert next(many).index == 0
        with pytest.raises(ImageError, match="image 1"):
            next(many)
        assert list(client.classify_many([tmp_path / "none.png"] * 3))[2].model is None
        assert list(client.classify_many([])) == []


def test_one_bad_image_raises(connect, server, tmp_path):
    with connect(server.url) as client:
        with pytest.raises(ImageError, match="Send a complete JPEG") as caught:
            client.classify(b"junk")
        assert caught.value.code == "image_undecodable"
        with pytest.raises(FileNotFoundError):
            client.classify(tmp_path / "none.png")
        with pytest.raises(ImageError, match="opened with 'rb'"):
            client.classify(3)


def test_models_health_and_readiness(connect, server):
    with connect(server.url) as client:
        client.wait_until_ready(10)
        assert client.health() is True
        assert client.ready() is True
        (model,) = client.models()
        assert model == client.model("colors")
    assert model.name == "colors"
    assert model.ready
    assert set(model.classes) == set(CLASSES)
    assert model.input is not None
    assert (model.input.height, model.input.width) == (16, 16)
    assert [version.version for version in model.versions] == [1]
    assert model.versions[0].digest
    assert model.accuracy is not None
    assert 0 <= model.accuracy.top1 <= 1
    assert model.execution_provider == model.raw["execution_provider"]


def test_refusals_say_what_to_do(connect, server, pictures):
    with connect(server.url) as client:
        for ask in (
            lambda: client.model("dogs"),
            lambda: client.classify(pictures["red"], model="dogs"),
            lambda: list(client.classify_many([pictures["red"]], model="dogs")),
        ):
            with pytest.raises(RequestRefusedError, match="colors") as caught:
                ask()
            assert (caught.value.status, caught.value.code) == (404, "model_not_found")
            assert caught.value.request_id
        with pytest.raises(RequestRefusedError, match="top_k") as caught:
            client.classify(pictures["red"], top_k=0)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), again.code, again.hint) == (
            str(caught.value), "invalid_parameter", caught.value.hint,
        )  # fmt: skip


def test_wrong_arguments_are_refused_before_anything_is_sent(connect, server):
    for options in (
        {"url": "localhost:8000"},
        {"url": "ftp://localhost"},
        {"retries": -1},
        {"timeout": 0},
        {"api_key": "a\nb"},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            Client(**options)
    with connect(server.url) as client:
        for name, value in (("batch_size", 0), ("in_flight", 0), ("timeout", -1), ("on_error", "")):
            with pytest.raises(ValueError, match=name):
                list(client.classify_many([], **{name: value}))


def test_the_environment_says_where_and_who(server, monkeypatch):
    monkeypatch.setenv("ADARESNET_URL", server.url + "/")
    monkeypatch.setenv("ADARESNET_API_KEY", "secret-key")
    with Client() as client:
        assert client.url == server.url
        assert client.ready()
        assert client._http.headers["authorization"] == "Bearer secret-key"
    with Client(api_key="another") as client:
        assert client._http.headers["authorization"] == "Bearer another"


def test_nobody_there(connect):
    url = f"http://127.0.0.1:{free_port()}"
    with connect(url, retries=1) as client:
        for ask in (client.health, client.ready, client.models, lambda: client.classify(b"x")):
            with pytest.raises(ConnectionFailedError, match="Is the service running") as caught:
                ask()
            assert isinstance(caught.value, ConnectionError)
        with pytest.raises(TimedOutError, match=r"not ready after 0\.3 s: .+"):
            client.wait_until_ready(0.3)


def test_it_waits_for_a_server_that_is_started_later(connect, exported, pictures):
    port = free_port()
    command = [ADARESNET, "serve", "--models", exported.repository, "--port", str(port)]
    with connect(f"http://127.0.0.1:{port}") as client:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            client.wait_until_ready(60)
            assert client.classify(pictures["blue"]).top.label == "blue"
        finally:
            process.terminate()
            process.wait(30)


def test_an_image_that_is_too_large_loses_no_other(connect, exported, tmp_path, pictures, rng):
    noise = png(Image.fromarray(rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)))
    small = png(pictures["red"])
    limits = ("--max-buffer-bytes", "50000", "--max-body-bytes", "60000")
    assert len(noise) > 100_000
    with serving(exported.repository, tmp_path, *limits) as server, connect(server.url) as client:
        results = list(client.classify_many([small] * 20 + [noise] + [small] * 20))
        wrong = {result.index: result.error.code for result in results if result.error}
        assert wrong == {20: "request_too_large"}
        # All together are too large for one request, none is by itself.
        arrays = [np.asarray(pictures["green"])] * 100
        assert len(arrays) * arrays[0].size > 60_000
        answered = client.classify_many(arrays, batch_size=100)
        assert {result.top.label for result in answered} == {"green"}


def test_never_more_in_work_than_allowed(connect, server, pictures):
    taken = []

    def images() -> Iterator[Image.Image]:
        for _ in range(200):
            taken.append(1)
            yield pictures["red"]

    with connect(server.url) as client:
        results = client.classify_many(images(), batch_size=5, in_flight=3)
        for index, _ in enumerate(results):
            # Those that are told, those in requests, and one request that is being filled.
            assert len(taken) <= index + 1 + 5 * 4
        assert len(taken) == 200


def test_leaving_early_ends_the_work(connect, server, pictures):
    endless = itertools.repeat(pictures["green"])
    with connect(server.url) as client:
        for result in client.classify_many(endless, batch_size=2):
            if result.index == 9:
                break
        assert client.classify(pictures["red"]).top.label == "red"


def test_an_error_of_the_callers_iterable_is_raised(connect, server, pictures):
    def images() -> Iterator[Image.Image]:
        yield pictures["red"]
        raise LookupError("the caller's own")

    with connect(server.url) as client, pytest.raises(LookupError, match="own"):
        list(client.classify_many(images()))


def test_threads_share_a_client(server, pictures):
    with Client(server.url) as client, concurrent.futures.ThreadPoolExecutor(16) as pool:
        names = list(CLASSES) * 40
        labels = pool.map(lambda name: client.classify(pictures[name]).top.label, names)
        assert list(labels) == names
        before = threading.active_count()
        many = pool.map(
            lambda name: {r.top.label for r in client.classify_many([pictures[name]] * 70)}, CLASSES
        )
        assert list(many) == [{name} for name in CLASSES]
    assert threading.active_count() <= before


def test_async_takes_async_images_and_runs_side_by_side(server, pictures):
    async def images(name: str) -> AsyncIterator[Image.Image]:
        for _ in range(50):
            await asyncio.sleep(0)
            yield pictures[name]

    async def main() -> None:
        async with AsyncClient(server.url) as client:

            async def labels(name: str) -> set[str]:
                return {r.top.label async for r in client.classify_many(images(name))}

            assert await asyncio.gather(*map(labels, CLASSES)) == [{name} for name in CLASSES]
            one = await asyncio.gather(*(client.classify(pictures[name]) for name in CLASSES))
            assert [result.top.label for result in one] == list(CLASSES)

    asyncio.run(main())


def test_another_kind_of_server_is_told_apart(connect, tmp_path):
    """A server that answers 200 with JSON of its own to everything."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"hello": "world"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            with connect(f"http://127.0.0.1:{other.server_port}") as client:
                for ask in (client.models, lambda: client.classify(b"P6 1 1 255 abc")):
                    with pytest.raises(Exception, match=r"not a server of this kind.*hello"):
                        ask()
        finally:
            other.shutdown()
            thread.join()


def test_an_answer_that_is_no_problem_document_is_shown(connect, server):
    with connect(server.url + "/nowhere") as client:
        with pytest.raises(AnswerError, match="404") as caught:
            client.models()
        assert caught.value.code == "not_found"
    assert httpx.get(server.url + "/readyz").status_code == 200
