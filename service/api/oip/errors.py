"""The form that every error has under ``/v2``, and nowhere else: ``{"error": "..."}``.

Source: Open Inference Protocol, "Errors"; statuses as Triton's, which knows no 422.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.api.oip.compression import REPLIES
from service.engine.errors import InvalidImagesError, ModelLoadError

_ROOT = "/v2"
_UNPROCESSABLE, _UNSUPPORTED_MEDIA = 422, 415
_SHOWN = 3  # of the bad images


def speaks_protocol(request: Request) -> bool:
    """Whether a request is under ``/v2``."""
    path: str = request.scope["path"]
    return path == _ROOT or path.startswith(_ROOT + "/")


def respond(
    problem: Mapping[str, Any],
    status: int,
    headers: Mapping[str, str],
    wrong: Sequence[Mapping[str, Any]] | None,
) -> Response:
    """Answer a problem document as the protocol has it.

    Args:
        problem: The document (RFC 9457).
        status: That goes with it elsewhere.
        headers: Of the answer.
        wrong: What is wrong with each bad image.
    """
    code, text = problem["code"], f"{problem['detail']} {problem['hint']}"
    if wrong and code == InvalidImagesError.code:
        shown = [f"Image {one['index']}: {one['detail']} {one['hint']}" for one in wrong[:_SHOWN]]
        text = " ".join([problem["detail"], *shown])
    if status == _UNPROCESSABLE or code == ModelLoadError.code:
        status = 400
    if status == _UNSUPPORTED_MEDIA:
        headers = {**headers, "Accept-Encoding": ", ".join(REPLIES)}  # RFC 9110, 12.5.3
    return Response(orjson.dumps({"error": text}), status, headers, "application/json")
