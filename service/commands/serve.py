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

from service.api.auth.rates import SharedRates
from service.api.obstacles import find_obstacles
from service.cli import USAGE_ERROR, fail
from service.logs import set_up_logs
from service.open_files import make_room
from service.setting_names import strays
from service.settings import Settings, load_settings
from service.workers import Seat, Supervisor

if TYPE_CHECKING:
    from service.api.server import Server

_PROGRAM = "adaresnet serve"
_BACKLOG = 2048  # connections that the kernel holds until they are accepted
_logger = logging.getLogger(__name__)


def serve(argv: list[str]) -> int:
    """Serve a model repository over HTTP."""
    try:
        settings = load_settings(argv, program=_PROGRAM)
    except ValueError as error:
        return fail(_PROGRAM, str(error), USAGE_ERROR)
    for line in strays(os.environ, Settings.model_fields):
        print(f"{_PROGRAM}: warning: {line}", file=sys.stderr)
    if not settings.repository.is_dir():
        return fail(_PROGRAM, f"models: {settings.repository} is no folder", USAGE_ERROR)
    if importlib.util.find_spec("onnxruntime") is None:
        return fail(_PROGRAM, "ONNX Runtime is missing: install adaresnet[cpu] or adaresnet[gpu]")
    if (obstacle := next(find_obstacles(settings), None)) is not None:
        return fail(_PROGRAM, obstacle, USAGE_ERROR)
    several = settings.workers > 1
    set_up_logs(settings.log_level, settings.log_format, several=several)
    # Pillow warns of large and odd pictures; the decoder has limits and errors of its own.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    connections = make_room(settings.max_connections)
    settings = settings.model_copy(update={"max_connections": connections})
    ports = [settings.port] if settings.admin_port is None else [settings.port, settings.admin_port]
    opened: list[list[socket.socket]] = []
    for port in ports:
        try:
            opened.append(_listen(settings.host, port, settings.workers))
        except OSError as error:
            where = f"{settings.host} port {port}"
            return fail(_PROGRAM, f"can't listen on {where}: {error.strerror}")
    listeners = list(zip(*opened, strict=True))
    return _in_workers(settings, listeners) if several else _alone(settings, listeners[0])


def _alone(settings: Settings, listeners: tuple[socket.socket, ...]) -> int:
    from service.api.app import create_app
    from service.api.server import Server
    from service.api.tls import certificate_of

    fatal: list[str] = []

    def on_fatal(reason: str) -> None:
        fatal.append(reason)
        server.should_exit = True

    try:
        certificate = certificate_of(settings.tls_certificate, settings.tls_key)
        app = create_app(settings, on_fatal)
    except ValueError as error:
        return fail(_PROGRAM, str(error), USAGE_ERROR)
    server = Server(app, settings, certificate)
    _stop_on_signals(server)
    _say_where(settings, listeners)
    server.run(sockets=list(listeners))
    _stop_no_more()
    if fatal:
        return _end_with(fatal[0])
    status = 0 if server.started else 1
    if app.lifecycle.hangs:
        logging.shutdown()
        os._exit(status)  # what Python tidies up at its end, such a thread may still use
    return status


def _in_workers(settings: Settings, listeners: list[tuple[socket.socket, ...]]) -> int:
    parent = os.getpid()
    rates = SharedRates()
    try:
        folder = Path(tempfile.mkdtemp(prefix="adaresnet-metrics-"))
    except OSError as error:
        return fail(_PROGRAM, f"workers need a temporary folder: {error.strerror}")

    def work(seat: Seat) -> int:
        try:
            return _work(settings, seat, folder, rates)
        finally:
            logging.shutdown()
            if os.getppid() != parent:  # it died, and can't clean up
                shutil.rmtree(folder, ignore_errors=True)

    def on_death(number: int) -> None:
        # Not before: the parent, which starts workers, shall be small and start fast.
        from service.engine.metrics import forget_gauges

        forget_gauges(folder, number)

    _say_where(settings, listeners[0])
    try:
        drain_s = settings.drain_delay_s + settings.drain_timeout_s
        failure = Supervisor(listeners, work, on_death, drain_s, settings.worker_timeout_s).run()
    finally:
        _stop_no_more()
        shutil.rmtree(folder, ignore_errors=True)
    return _end_with(failure) if failure else 0


def _end_with(reason: str) -> int:
    logging.shutdown()  # the reason comes last
    return fail(_PROGRAM, reason)


def _work(settings: Settings, seat: Seat, folder: Path, rates: SharedRates) -> int:
    """What a worker does."""
    from service.api.app import create_app
    from service.api.server import Server
    from service.api.tls import certificate_of
    from service.engine.metrics import Metrics, share_metrics

    def on_fatal(reason: str) -> None:
        seat.report_fatal(reason)
        server.leave()

    share_metrics(folder, seat.number)
    metrics = Metrics(folder, settings.metrics_classes)
    try:
        certificate = certificate_of(settings.tls_certificate, settings.tls_key)
        app = create_app(
            settings, on_fatal, metrics=metrics, load_first=seat.replacement, rates=rates
        )
    except ValueError as error:
        seat.report_fatal(str(error))
        return USAGE_ERROR
    server = Server(app, settings, certificate, seat)
    _stop_on_signals(server)
    server.run(sockets=list(seat.listeners))
    return 0 if server.started else 1


def _stop_on_signals(server: Server) -> None:
    # For a signal before uvicorn has handlers of its own, and after: it raises the one that
    # stopped it once more when all is done, which would end the process with a status of failure.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: setattr(server, "should_exit", True))


def _stop_no_more() -> None:
    # Python takes its handlers away at its end; one more signal would then change the exit status.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, signal.SIG_IGN)


def _say_where(settings: Settings, listeners: tuple[socket.socket, ...]) -> None:
    scheme = "http" if settings.tls_certificate is None else "https"
    for listener, how in zip(listeners, (scheme, "http"), strict=False):
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        _logger.info("listening on %s://%s:%d", how, shown, port)


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
