"""The end of the service: asked for under load, in a hurry, and where work would take too long."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import signal
import threading
import time
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from tests.resilience.bench import Bench, Fault, Scene
from tests.resilience.service import wait_until
from tests.resilience.traffic import MODEL, Terms

_ENDS = Terms(ends=True, refusals=frozenset({"stopping"}))
_SLOW_PICTURES = 600


def stop_under_load(bench: Bench) -> None:
    """SIGTERM: what was taken is answered, nobody's connection is cut, and the status is 0."""
    for workers in (0, 2) * bench.rounds(3, 1):
        flags = ("--drain-delay-s", "1")
        with bench.under_traffic(*flags, workers=workers, terms=_ENDS, ends=True) as scene:
            assert scene.service.stop() == 0, scene.service.text()[-600:]
            scene.traffic.finish()


def stop_in_time(bench: Bench) -> None:
    """Work that takes longer than the limit is refused with 503 when it has passed."""
    for workers in (0, 2)[: bench.rounds(2, 1)]:
        flags = ("--drain-timeout-s", "1")
        with bench.under_traffic(*flags, workers=workers, terms=_ENDS, ends=True) as scene:
            slow = _Slow(scene)
            scene.service.process.send_signal(signal.SIGTERM)
            slow.check_refused(bench)
            _check_end(scene, "drain_timeout_s")
            scene.traffic.finish()


def stop_at_once(bench: Bench) -> None:
    """A second signal doesn't wait for the limit, which is ten times the patience of this test."""
    for second in (signal.SIGTERM, signal.SIGINT)[: bench.rounds(2, 1)]:
        for workers in (0, 2):
            with bench.under_traffic(
                "--drain-timeout-s", "600", workers=workers, terms=_ENDS, ends=True
            ) as scene:
                slow = _Slow(scene)
                scene.service.process.send_signal(signal.SIGTERM)
                time.sleep(1)
                scene.service.process.send_signal(second)
                slow.check_refused(bench)
                _check_end(scene, "second signal")
                scene.traffic.finish()


def _check_end(scene: Scene, words: str) -> None:
    status = scene.service.stop()
    assert status == 0, f"status {status}: {scene.service.text()[-600:]}"
    assert words in scene.service.text(), f"the log says nothing of {words}"


@dataclass
class _Slow:
    """A request that takes minutes: many pictures of 9 megapixels in a small body."""

    scene: Scene
    status: int = 0
    retry_after: str | None = None
    code: str = ""
    error: str = ""
    _sent: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._send)
        self._thread.start()
        assert self._sent.wait(60), f"the slow request can't be sent: {self.error}"
        time.sleep(1)  # so that it is under way

    def _send(self) -> None:
        picture = io.BytesIO()
        Image.fromarray(np.zeros((3000, 3000), np.uint16)).save(picture, "PNG")
        text = base64.b64encode(picture.getvalue()).decode()
        body = json.dumps({"images": [text] * _SLOW_PICTURES})
        headers = {"Content-Type": "application/json", "X-Request-Timeout": "600"}
        connection = http.client.HTTPConnection("127.0.0.1", self.scene.service.port, timeout=120)
        with contextlib.closing(connection):
            try:
                connection.request("POST", f"/v1/classify?model={MODEL}", body, headers)
                self._sent.set()
                answer = connection.getresponse()
                found = answer.read()
                self.status, self.retry_after = answer.status, answer.getheader("Retry-After")
                self.code = json.loads(found)["code"]
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                self.error = f"{type(error).__name__} {error}"

    def check_refused(self, bench: Bench) -> None:
        """It was told to come again."""
        bench.ledger.begin()
        wait_until(lambda: not self._thread.is_alive(), "an answer to the slow request", 60)
        if self.status == 503 and self.code == "stopping" and self.retry_after:
            bench.ledger.refuse("stopping")
        else:
            bench.ledger.lose(f"the slow request: {self.status} {self.code} {self.error}")


FAULTS = (
    Fault("stop", "told to stop under load (SIGTERM)", stop_under_load),
    Fault("stop-limit", "told to stop, with work that takes too long", stop_in_time),
    Fault("stop-twice", "told to stop a second time", stop_at_once),
)
