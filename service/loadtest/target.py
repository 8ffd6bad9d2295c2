"""The server that is measured: its address, its model, and the requests that it gets."""

from __future__ import annotations

import itertools
import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from service.loadtest.open_loop import Address
from service.loadtest.pictures import draw_pictures

_PORTS = {"http": 80, "https": 443}
_PROBE_PX = 32
_AT_A_TIME = 16  # pictures of a request that asks whether they are taken
_BOUNDARY = "adaresnet-load-test-boundary"


class TargetError(Exception):
    """The server can't be asked, or refuses."""


@dataclass(frozen=True)
class Target:
    """A server.

    Attributes:
        url: Without a slash at its end.
        host: Name or address.
        port: Of the server.
        headers: Sent with every request.
        path: Where pictures go, with its query.
    """

    url: str
    host: str
    port: int
    headers: Mapping[str, str]
    path: str

    @property
    def address(self) -> Address:
        """For connections."""
        tls = ssl.create_default_context() if self.url.startswith("https:") else None
        return Address(self.host, self.port, tls)

    def requests(self, pictures: list[bytes], images_per_request: int) -> Iterator[bytes]:
        """Requests as they go over the wire, endlessly; pictures take turns."""
        parts = urlsplit(self.url)
        lines = [
            f"POST {parts.path}{self.path} HTTP/1.1",
            f"Host: {parts.netloc}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        head = "\r\n".join(lines)
        turns = itertools.cycle(pictures)
        while True:
            content_type, body = _body(list(itertools.islice(turns, images_per_request)))
            length = sum(map(len, body))
            whole = f"{head}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
            yield b"".join((whole.encode("latin-1"), *body))


@dataclass(frozen=True)
class Subject:
    """The model that is measured; pixels are those of its input."""

    name: str
    version: int
    height: int
    width: int


def parse_target(url: str, model: str | None, api_key: str | None) -> Target:
    """Read what the command line says of the server.

    Raises:
        ValueError: It is no address, or no key.
    """
    whole = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(whole)
        port, host = parts.port, parts.hostname
        parts.netloc.encode("ascii")
    except ValueError as error:
        raise ValueError(f"url: {url!r} is no address: {error}") from None
    if parts.scheme not in _PORTS or not host or parts.query or parts.fragment or "@" in whole:
        raise ValueError(f"url: {url!r} is no address like http://localhost:8000")
    headers = {"User-Agent": f"adaresnet-load-test/{metadata.version('adaresnet')}"}
    if api_key:
        if not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("api-key: it has characters that a header can't carry")
        headers["Authorization"] = f"Bearer {api_key}"
    path = "/v1/classify" + (f"?model={quote(model, safe='')}" if model else "")
    base = f"{parts.scheme}://{parts.netloc}{quote(parts.path.rstrip('/'), safe='/%')}"
    return Target(base, host, port or _PORTS[parts.scheme], headers, path)


def find_subject(target: Target, model: str | None, timeout_s: float) -> Subject:
    """Ask the server about its model, the default one where none is named.

    Raises:
        TargetError: It can't be asked, or there is no such model, or it is not ready.
    """
    with _client(target, timeout_s) as client:
        models = _ask(client, "GET", "/v1/models")["models"]
        if model is None:
            # The list does not say which is the default; an answer does.
            (probe, *_) = draw_pictures(_PROBE_PX, _PROBE_PX).values()
            model = str(_ask(client, "POST", target.path, content=probe)["model"])
    entry = next((one for one in models if one["name"] == model), None)
    if entry is None:
        known = ", ".join(one["name"] for one in models)
        raise TargetError(f"no model is named {model!r}; there are {known}")
    if not entry["ready"] or not entry.get("input"):
        raise TargetError(f"model {model} is not ready")
    shape = entry["input"]
    return Subject(model, entry["default_version"], shape["height"], shape["width"])


def check_pictures(target: Target, pictures: Mapping[str, bytes], timeout_s: float) -> None:
    """Send every picture once.

    Raises:
        TargetError: One is refused, which is named; or the server is.
    """
    left = list(pictures.items())
    path = target.path + ("&" if "?" in target.path else "?") + "on_error=skip"
    with _client(target, timeout_s) as client:
        while left:
            group, left = left[:_AT_A_TIME], left[_AT_A_TIME:]
            content_type, parts = _body([data for _, data in group], form=True)
            headers = {"Content-Type": content_type}
            answer = _ask(client, "POST", path, content=b"".join(parts), headers=headers)
            for (name, _), result in zip(group, answer["results"], strict=True):
                if error := result.get("error"):
                    raise TargetError(f"{name} is refused: {error['detail']}")


def _body(pictures: list[bytes], *, form: bool = False) -> tuple[str, list[bytes]]:
    """Content type and pieces of a body: one picture as it is, several as a form."""
    if len(pictures) == 1 and not form:
        return "application/octet-stream", pictures
    parts = []
    for number, picture in enumerate(pictures):
        name = f'form-data; name="images"; filename="{number}"'
        head = f"--{_BOUNDARY}\r\nContent-Disposition: {name}\r\n\r\n"
        parts += [head.encode(), picture, b"\r\n"]
    parts.append(f"--{_BOUNDARY}--\r\n".encode())
    return f"multipart/form-data; boundary={_BOUNDARY}", parts


def _client(target: Target, timeout_s: float) -> httpx.Client:
    # Requests that are measured go straight to the server, so these do.
    headers = dict(target.headers)
    return httpx.Client(base_url=target.url, headers=headers, timeout=timeout_s, trust_env=False)


def _ask(client: httpx.Client, method: str, path: str, **request: Any) -> dict[str, Any]:
    where = f"{client.base_url}".rstrip("/")
    try:
        answer = client.request(method, path, **request)
        body: dict[str, Any] = answer.json()
        if answer.is_success:
            return _checked(body)
        problem = f"{body['detail']} {body['hint']}"
    except httpx.TimeoutException:
        raise TargetError(f"{where} does not answer {method} {path} in time") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise TargetError(f"{where} can't be asked: {error}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        status = f"{answer.status_code} {answer.reason_phrase}".strip()
        raise TargetError(
            f"{where} is not a server of this kind: {method} {path} gave {status}"
        ) from None
    raise TargetError(f"{where} refuses {method} {path}: {answer.status_code}, {problem}")


def _checked(body: dict[str, Any]) -> dict[str, Any]:
    """Only as much as is needed to tell a server of another kind."""
    if not isinstance(body.get("models", body.get("results")), list):
        raise KeyError("models")
    return body
