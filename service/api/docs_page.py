"""``GET /docs``: Swagger UI over ``/openapi.json``, under a policy that runs its scripts only."""

from __future__ import annotations

import base64
import hashlib
import re

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

PATH = "/docs"
_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_LIBRARY = "https://cdn.jsdelivr.net"  # where the framework's page loads Swagger UI from


def install(app: FastAPI) -> None:
    """Give an app the page; it is to have none of the framework's own (``docs_url=None``)."""
    page = get_swagger_ui_html(
        openapi_url=(app.openapi_url or "").lstrip("/"),
        title=app.title,
        swagger_favicon_url="data:,",
    ).body
    (script,) = _SCRIPT.findall(bytes(page))
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_LIBRARY} 'sha256-{digest}'",
            f"style-src {_LIBRARY} 'unsafe-inline'",  # Swagger UI sets styles of elements
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
    router = APIRouter()

    async def show(_: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    router.add_route(PATH, show, include_in_schema=False)
    app.include_router(router)
