"""Send every test image of a data set over HTTP and report accuracy and throughput.

    adaresnet serve &
    python benchmarks/accuracy_over_http.py --data cifar10 --model cifar10

Images are decoded from the data set and sent as PNG, so that the server sees the very pixels.
Accuracy must be what models/README.md says; throughput includes this client, which shares the
machine with the server, and is a sanity check rather than a measure of the service.
"""

from __future__ import annotations

import argparse
import io
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
from PIL import Image

from service.metadata import Resize
from training.data.dataset import Split, load_data


def main() -> None:
    """Print one line a way of sending."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--data", required=True, help="folder or hub name, as for training")
    parser.add_argument("--model", required=True)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--images-per-request", type=int, nargs="+", default=[1, 100])
    args = parser.parse_args()
    with httpx.Client(base_url=args.url, timeout=120) as client:
        size = client.get(f"/v1/models/{args.model}").raise_for_status().json()["input"]
        test = load_data(args.data, size["height"], Resize(), seed=0).test.in_memory()
        pictures = [_png(pixels) for pixels in test.pixels.numpy()]
        for count in args.images_per_request:
            started = time.perf_counter()
            right = _send(client, args.model, pictures, test, count, args.connections)
            elapsed = time.perf_counter() - started
            print(
                f"{args.model}: {right / len(test):.2%} of {len(test)} right,"
                f" {count} a request on {args.connections} connections,"
                f" {len(test) / elapsed:.0f} images/s"
            )


def _png(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _send(
    client: httpx.Client,
    model: str,
    pictures: list[bytes],
    test: Split,
    count: int,
    connections: int,
) -> int:
    def classify(chunk: tuple[bytes, ...]) -> list[int]:
        query = {"model": model, "top_k": "1"}
        if len(chunk) == 1:
            answer = client.post("/v1/classify", params=query, content=chunk[0])
        else:
            files = [("images", (f"{i}.png", data)) for i, data in enumerate(chunk)]
            answer = client.post("/v1/classify", params=query, files=files)
        results = answer.raise_for_status().json()["results"]
        return [result["predictions"][0]["class_id"] for result in results]

    with ThreadPoolExecutor(connections) as pool:
        answers = pool.map(classify, _batched(pictures, count))
        predicted = list(itertools.chain.from_iterable(answers))
    return sum(a == b for a, b in zip(predicted, test.labels.tolist(), strict=True))


def _batched(items: list[bytes], count: int) -> Iterator[tuple[bytes, ...]]:
    for start in range(0, len(items), count):
        yield tuple(items[start : start + count])


if __name__ == "__main__":
    main()
