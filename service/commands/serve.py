"""``adaresnet serve``: run the HTTP service."""

from __future__ import annotations

import importlib.util
import logging
import signal
import socket
import sys
import warnings

from service.cli import USAGE_ERROR, fail
from service.settings import load_settings

_PROGRAM = "adaresnet serve"
# Longer than the idle timeouts of common clients and proxies, which would else race with ours.
_KEEP_ALIVE_S = 75
_DRAIN_S = 30
_BACKLOG = 2048  # connections that the kernel holds until they are accepted


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
    import uvicorn

    from service.api.app import create_app
    from service.api.connection import Connection

    logging.basicConfig(
        level=settings.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    # Pillow warns of large and odd pictures; the decoder has limits and errors of its own.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    fatal: list[str] = []

    def on_fatal(reason: str) -> None:
        fatal.append(reason)
        server.should_exit = True

    try:
        listener = _listen(settings.host, settings.port)
    except OSError as error:
        where = f"{settings.host} port {settings.port}"
        return fail(_PROGRAM, f"can't listen on {where}: {error.strerror}")
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings, on_fatal),
            http=Connection,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here depends on the client's address
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_DRAIN_S,
        )
    )
    # For a signal before uvicorn has handlers of its own, and after: it raises the one that
    # stopped it once more when all is done, which would end the process with a status of failure.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: setattr(server, "should_exit", True))
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    logging.getLogger(__name__).info("listening on http://%s:%d", shown, port)
    server.run(sockets=[listener])
    if fatal:
        return fail(_PROGRAM, fatal[0])
    return 0 if server.started else 1


def _listen(host: str, port: int) -> socket.socket:
    host = host.removeprefix("[").removesuffix("]")
    if ":" not in host:
        return socket.create_server((host, port), backlog=_BACKLOG)
    # "::" means all addresses, of both families where the system can.
    both = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(
        (host, port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=both
    )
