"""Plain FastAPI: each request decodes and runs in a thread of its own, nothing is batched.

What the documentation leads to: blocking work in the thread pool, ONNX Runtime's default threads.
"""

from __future__ import annotations

from classifier import Classifier, read_npy
from fastapi import FastAPI, Request, UploadFile
from fastapi.concurrency import run_in_threadpool

app = FastAPI()
classifier = Classifier()


def _classify_picture(data: bytes) -> list[dict[str, float]]:
    return classifier.classify(classifier.decode(data)[None])


def _classify_npy(data: bytes) -> list[dict[str, float]]:
    return classifier.classify(read_npy(data))


@app.post("/classify")
async def classify(request: Request) -> list[dict[str, float]]:
    """One picture as it is."""
    return await run_in_threadpool(_classify_picture, await request.body())


@app.post("/classify/files")
def classify_files(images: list[UploadFile]) -> list[dict[str, float]]:
    """Several as a form."""
    return classifier.classify(classifier.decode_all([image.file.read() for image in images]))


@app.post("/classify/tensor")
async def classify_tensor(request: Request) -> list[dict[str, float]]:
    """Pixels as .npy."""
    return await run_in_threadpool(_classify_npy, await request.body())
