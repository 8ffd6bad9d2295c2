"""``adaresnet serve``: run the HTTP service, in this process or in several."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli import USAGE_ERROR, fail
from service.settings import Settings, load_settings
from service.workers import Seat, Supervisor, workers_obstacle

if TYPE_CHECKING:
    from service.api.server import Server

_PROGRAM = "adaresnet serve"
_BACKLOG = 2048  # connections that the kernel holds until they are accepted
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
_WORKER_LOG_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s %(message)s"
_logger = logging.getLogger(__name__)


def serve(argv: list[str]) -> int:
    """Serve a model repository over HTTP."""
    try:
        settings = load_settings(argv, program=_PROGRAM)
    except ValueError as error:
        return fail(_PROGRAM, str(error), USAGE_ERROR)
    if not settings.repository.is_dir():
        return fail(_PROGRAM, f"models: {settings.repository} is no folder", USAGE_ERROR)
    if importlib.util.find_spec("onnxruntime") is None:
        return fail(_PROGRAM, "ONNX Runtime is missing: install adaresnet[cpu] or adaresnet[gpu]")
    several = settings.workers > 1
    if several and (obstacle := workers_obstacle()):
        return fail(_PROGRAM, f"workers: {obstacle}", USAGE_ERROR)
    logging.basicConfig(
        level=settings.log_level.upper(),
        stream=sys.stderr,
        format=_WORKER_LOG_FORMAT if several else _LOG_FORMAT,
    )
    # Pillow warns of large and odd pictures; the decoder has limits and errors of its own.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        listeners = _listen(settings.host, settings.port, settings.workers)
    except OSError as error:
        where = f"{settings.host} port {settings.port}"
        return fail(_PROGRAM, f"can't listen on {where}: {error.strerror}")
    return _in_workers(settings, listeners) if several else _alone(settings, listeners[0])


def _alone(settings: Settings, listener: socket.socket) -> int:
    from service.api.app import create_app
    from service.api.server import Server

    fatal: list[str] = []

    def on_fatal(reason: str) -> None:
        fatal.append(reason)
        server.should_exit = True

    server = Server(create_app(settings, on_fatal))
    _stop_on_signals(server)
    _say_where(listener)
    server.run(sockets=[listener])
    if fatal:
        return fail(_PROGRAM, fatal[0])
    return 0 if server.started else 1


def _in_workers(settings: Settings, listeners: list[socket.socket]) -> int:
    parent = os.getpid()
    try:
        folder = Path(tempfile.mkdtemp(prefix="adaresnet-metrics-"))
    except OSError as error:
        return fail(_PROGRAM, f"workers need a temporary folder: {error.strerror}")

    def work(seat: Seat) -> int:
        try:
            return _work(settings, seat, folder)
        finally:
            if os.getppid() != parent:  # it died, and can't clean up
                shutil.rmtree(folder, ignore_errors=True)

    def on_death(number: int) -> None:
        # Not before: the parent, which starts workers, shall be small and start fast.
        from service.engine.metrics import forget_gauges

        forget_gauges(folder, number)

    _say_where(listeners[0])
    try:
        failure = Supervisor(listeners, work, on_death).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return fail(_PROGRAM, failure) if failure else 0


def _work(settings: Settings, seat: Seat, folder: Path) -> int:
    """What a worker does."""
    from service.api.app import create_app
    from service.api.server import Server
    from service.engine.metrics import Metrics, share_metrics

    def on_fatal(reason: str) -> None:
        seat.report_fatal(reason)
        server.should_exit = True

    share_metrics(folder, seat.number)
    app = create_app(settings, on_fatal, metrics=Metrics(folder), load_first=seat.replacement)
    server = Server(app, seat)
    _stop_on_signals(server)
    server.run(sockets=[seat.listener])
    return 0 if server.started else 1


def _stop_on_signals(server: Server) -> None:
    # For a signal before uvicorn has handlers of its own, and after: it raises the one that
    # stopped it once more when all is done, which would end the process with a status of failure.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: setattr(server, "should_exit", True))


def _say_where(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    _logger.info("listening on http://%s:%d", shown, port)


def _listen(host: str, port: int, count: int) -> list[socket.socket]:
    """Open so many sockets on one port."""
    if count == 1:
        return [_listener(host, port)]
    if port:
        # Sockets that share a port would also share it with those of another service like this.
        _listener(host, port).close()
    first = _listener(host, port, shared=True)
    port = first.getsockname()[1]
    return [first, *(_listener(host, port, shared=True) for _ in range(count - 1))]


def _listener(host: str, port: int, *, shared: bool = False) -> socket.socket:
    host = host.removeprefix("[").removesuffix("]")
    if ":" not in host:
        return socket.create_server((host, port), backlog=_BACKLOG, reuse_port=shared)
    # "::" means all addresses, of both families where the system can.
    both = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(
        (host, port),
        family=socket.AF_INET6,
        backlog=_BACKLOG,
        reuse_port=shared,
        dualstack_ipv6=both,
    )
