"""``GET /``: alive, as KServe's V1 clients ask; for a browser a page that says what is here."""

from __future__ import annotations

import html
from string import Template

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from service.api.accept import quality

router = APIRouter(tags=["status"])

# Nothing on it is secret, and nothing on it comes from elsewhere: it needs no network.
_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>AdaResNet Serving</title>
<style>
  :root { color-scheme: light dark }
  body { font: 1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 3rem auto }
  pre { overflow-x: auto; padding: .8rem; border: 1px solid #8886; border-radius: .4rem }
  body, ul { padding: 0 1rem }
</style>
<h1>AdaResNet Serving</h1>
<p>Classifies images over HTTP. Send one:</p>
<pre>curl --data-binary @picture.png ${url}v1/classify</pre>
<ul>
  <li><a href="v1/models">Models</a>: their versions, classes and accuracy
  <li><a href="docs">Every route, to try</a>, as <a href="openapi.json">OpenAPI</a> too
  <li><a href="readyz">Readiness</a> and <a href="metrics">metrics</a>
</ul>
""")
_HEADERS = {
    "Vary": "Accept",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
}


class Liveness(BaseModel):
    """Answer of ``GET /`` in KServe's V1 protocol."""

    status: str = Field(examples=["alive"])


@router.head("/", include_in_schema=False)
@router.get(
    "/",
    response_model=Liveness,
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
)
async def home(request: Request) -> Response:
    """The process is alive (KServe V1); who prefers HTML to JSON gets a page of links."""
    accepted = ",".join(request.headers.getlist("accept"))
    if quality(accepted, "text/html") <= quality(accepted, "application/json"):
        return JSONResponse({"status": "alive"}, headers={"Vary": "Accept"})
    page = _PAGE.substitute(url=html.escape(str(request.base_url)))
    return HTMLResponse(page, headers=_HEADERS)
