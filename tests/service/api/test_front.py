"""What is before every route."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.exceptions import RequestValidationError

from service.api.app import create_app
from service.api.auth import key_set
from service.api.auth.keys import line_of, new_key
from service.api.front import Front, parse_query
from service.settings import Settings
from tests.identity_provider import AUDIENCE, IdentityProvider

URL = "http://service"


@contextlib.contextmanager
def app(models: Path, **settings: Any) -> Iterator[Front]:
    """A service without models."""
    front = create_app(Settings(models=models, access_log=False, **settings), print)
    try:
        yield front
    finally:
        front.app.state.predictor.close()


def test_strangers_who_wait_for_an_identity_provider_take_nobodys_place(tmp_path, monkeypatch):
    monkeypatch.setattr(key_set, "_WAIT_S", 60.0)
    key = new_key()
    known = {"Authorization": f"Bearer {key}"}

    async def scenario(front: Front, provider: IdentityProvider) -> None:
        unknown = {"Authorization": f"Bearer {provider.token()}"}
        del provider.keys["rsa-1"]
        provider.may_answer.clear()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url=URL) as client:
            strangers = [
                asyncio.create_task(client.get("/v1/models", headers=unknown)) for _ in range(8)
            ]
            await asyncio.to_thread(provider.was_asked.wait)
            assert (await client.get("/v1/models", headers=known)).status_code == 200
            assert not any(stranger.done() for stranger in strangers)
            provider.may_answer.set()
            assert {(await stranger).status_code for stranger in strangers} == {401}

    with IdentityProvider() as provider:
        settings = {
            "max_requests": 1,
            "api_keys": line_of("known", key, ["manage"]),
            "jwt_issuer": provider.issuer,
            "jwt_audience": AUDIENCE,
        }
        with app(tmp_path, **settings) as front:
            asyncio.run(scenario(front, provider))


def test_a_body_takes_room_until_its_request_is_answered(tmp_path):
    large = b"{" + b" " * 3 * 2**20 + b"}"

    async def scenario(front: Front) -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield large[:-1]
            begun.set()
            await go_on.wait()
            yield large[-1:]

        async with httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url=URL) as client:

            async def ask(body: bytes | AsyncIterator[bytes]) -> httpx.Response:
                return await client.post("/v2/repository/index", content=body)

            first = asyncio.create_task(ask(slowly()))
            await begun.wait()
            refused = await ask(large)
            assert refused.status_code == 503
            assert "3145728" in refused.json()["error"]
            assert int(refused.headers["retry-after"]) > 0
            assert (await ask(b"{}")).status_code == 200
            go_on.set()
            assert (await first).status_code == 200
            assert (await ask(large)).status_code == 200

    with app(tmp_path, max_held_bytes=3 * 2**20) as front:
        asyncio.run(scenario(front))


def test_of_all_that_is_wrong_with_a_query_one_thing_is_told():
    text = "&".join(f"unknown{number}=1" for number in range(2_000)).encode()
    for query, wrong in ((text, "unknown0"), (b"top_k=0&" + text, "top_k"), (b"x=1", "x")):
        with pytest.raises(RequestValidationError) as caught:
            parse_query(query)
        errors = caught.value.errors()
        assert errors[0]["loc"] == ("query", wrong)
        assert len(errors) <= 2
    assert parse_query(b"top_k=3&model=" + b"x" * 1_000).top_k == 3


def test_the_collector_looks_only_at_what_comes_after_the_start(tmp_path):
    async def scenario() -> None:
        front = create_app(Settings(models=tmp_path), print, load_first=True)
        async with front.app.router.lifespan_context(front.app):
            assert gc.get_freeze_count() > 1000

    assert gc.get_freeze_count() < 1000
    try:
        asyncio.run(scenario())
    finally:
        gc.unfreeze()
