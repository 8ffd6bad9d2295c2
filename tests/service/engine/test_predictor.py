from __future__ import annotations

import asyncio
import io
import time

import numpy as np
import pytest
from PIL import Image

from service.engine.admission import AdmissionLimits
from service.engine.decoding import DecodingOptions
from service.engine.errors import DeadlineExceededError, QueueFullError
from service.engine.instances import InstanceOptions
from service.engine.plan import PlanOptions
from service.engine.predictor import EngineOptions, Predictor
from service.engine.repository import RepositoryOptions
from service.engine.session import SessionOptions


@pytest.fixture
def make(exported):
    made = []

    def predictor(*, images: int = 1000, timeout_s: float = 30.0) -> Predictor:
        instances = InstanceOptions(SessionOptions("cpu"), lanes=1, cpus=1, plan=PlanOptions(8))
        models = RepositoryOptions(exported.repository, None, instances)
        limits = AdmissionLimits(images, 2**30)
        options = EngineOptions(models, limits, DecodingOptions(threads=1), timeout_s)
        made.append(Predictor(options))
        made[-1].repository.refresh()
        return made[-1]

    yield predictor
    for one in made:
        one.close()


def slow_png() -> bytes:
    """A picture that takes some tens of milliseconds to decode."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((3000, 3000), np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def quick_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def test_decoding_in_turns_lets_a_single_image_through(make):
    predictor = make()
    model = predictor.repository.find(None, None)

    async def scenario() -> None:
        many = asyncio.create_task(
            predictor.predict(model, [slow_png()] * 40, 1, skip_errors=False)
        )
        await asyncio.sleep(0.05)
        single = await predictor.predict(model, [quick_png()], 1, skip_errors=False)
        assert single.count == 1
        assert not many.done()
        many.cancel()

    asyncio.run(scenario())


def test_the_deadline_covers_decoding_and_ends_it(make):
    predictor = make(timeout_s=1.0)
    model = predictor.repository.find(None, None)

    async def scenario() -> None:
        started = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            await predictor.predict(model, [slow_png()] * 2000, 1, skip_errors=False)
        assert time.monotonic() - started < 10  # all of them would take minutes
        # Nothing of it is left in the way of the next request, not even its place.
        again = await predictor.predict(model, [quick_png()], 1, skip_errors=False)
        assert again.ranking is not None

    asyncio.run(scenario())


def test_images_being_decoded_count_for_admission(make):
    predictor = make(images=10)
    model = predictor.repository.find(None, None)

    async def scenario() -> None:
        first = asyncio.create_task(
            predictor.predict(model, [slow_png()] * 10, 1, skip_errors=False)
        )
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            await predictor.predict(model, [quick_png()], 1, skip_errors=False)
        first.cancel()

    asyncio.run(scenario())
