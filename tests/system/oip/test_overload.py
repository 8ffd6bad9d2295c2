"""More than the service can do: cases C27 to C29 of the conformance checklist."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.conftest import MODELS, Server, serving
from tests.system.oip.wire import (
    INFER,
    binary,
    infer,
    is_refused,
    pictures,
    post,
    send_inference,
    tensor,
)
from tests.system.prometheus import eventually, images, scrape, total

# One run at a time, of one image, and room for few: what is queued can be seen to wait.
SLOW = ("--device", "cpu", "--instances", "1", "--threads", "1", "--max-batch-size", "1",
        "--max-queue-size", "200")  # fmt: skip


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(MODELS / "cifar10", models / "cifar10")
    with serving(models, tmp_path_factory.mktemp("slow"), *SLOW) as running:
        yield running


def is_idle(server: Server) -> bool:
    return scrape(server.url)["adaresnet_images_in_work", frozenset()] == 0


def test_c27_a_timeout_is_a_deadline(slow: Server):
    eventually(lambda: is_idle(slow))
    before = scrape(slow.url)
    with slow.client() as client:
        for timeout in (1, 20_000):
            content, headers = binary(pictures(1000), parameters={"timeout": timeout})
            answer = client.post(INFER, content=content, headers=headers)
            assert is_refused(answer, 504, "within")
        assert infer(client, pictures(1))["logits"].shape == (1, 10)
    eventually(lambda: is_idle(slow))
    gone = images(scrape(slow.url), "never_run", reason="deadline")
    assert gone - images(before, "never_run", reason="deadline") > 1000


def test_c28_a_full_queue(slow: Server):
    eventually(lambda: is_idle(slow))
    with send_inference(slow, pictures(5000)), slow.client() as client:
        eventually(lambda: not is_idle(slow))
        answer = post(client, {"inputs": [tensor(pictures(1))]})
        assert is_refused(answer, 503, "200")
        assert int(answer.headers["retry-after"]) >= 1
        # Who asks how it is doing is answered nevertheless.
        assert client.get("/v2/health/ready").json() == {"ready": True}


def test_c29_what_a_client_that_hung_up_had_queued_is_never_run(slow: Server):
    eventually(lambda: is_idle(slow))
    before = scrape(slow.url)
    with send_inference(slow, pictures(5000)):
        eventually(lambda: not is_idle(slow))
    eventually(lambda: is_idle(slow))
    after = scrape(slow.url)
    name = "adaresnet_batch_size_sum"
    ran = total(after, name) - total(before, name)
    reason = {"reason": "client_gone"}
    dropped = images(after, "never_run", **reason) - images(before, "never_run", **reason)
    assert ran < 4000
    assert ran + dropped == 5000
