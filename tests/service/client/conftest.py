"""Both clients behind one face, so that each test holds for both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

import pytest

from service.client import AsyncClient, Client, ModelInfo, Result

T = TypeVar("T")


class Blocking:
    """An ``AsyncClient`` with the face of a ``Client``."""

    def __init__(self, url: str | None = None, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = self._run(self._create(url, options))

    def classify(self, image: Any, **options: Any) -> Result:
        return self._run(self._client.classify(image, **options))

    def classify_many(self, images: Iterable[Any], **options: Any) -> Iterator[Result]:
        results = self._client.classify_many(images, **options)
        try:
            while (result := self._run(_next(results))) is not None:
                yield result
        finally:
            self._run(results.aclose())

    def models(self) -> list[ModelInfo]:
        return self._run(self._client.models())

    def model(self, name: str) -> ModelInfo:
        return self._run(self._client.model(name))

    def health(self) -> bool:
        return self._run(self._client.health())

    def ready(self) -> bool:
        return self._run(self._client.ready())

    def wait_until_ready(self, timeout: float = 60) -> None:
        self._run(self._client.wait_until_ready(timeout))

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._client.close())
        self._runner.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    @staticmethod
    async def _create(url: str | None, options: dict[str, Any]) -> AsyncClient:
        return AsyncClient(url, **options)


async def _next(results: AsyncIterator[Result]) -> Result | None:
    return await anext(results, None)


@pytest.fixture(params=[Client, Blocking], ids=["blocking", "async"])
def connect(request: pytest.FixtureRequest) -> Any:
    """Makes a client."""
    return request.param
