"""What runs batches on GPUs, run here on the CPU: the same code but for where memory lies."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.devices import CPU
from service.engine.gpu import (
    Binding,
    CaptureGate,
    GpuGraph,
    GpuOptions,
    bindable,
    bucket_of,
    bucket_sizes,
    pieces_of,
    try_zeros,
)

NAMES = ["logits", "probabilities"]


def open_graph(path: Path, *, replays: bool = False, binding: Binding = Binding.HOST) -> GpuGraph:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    options = GpuOptions(max_batch_size=8, binding=binding)
    return GpuGraph(session, CPU, options, replays=replays)


@pytest.mark.parametrize(
    ("cap", "sizes"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (3, (1, 2, 3)),
        (8, (1, 2, 4, 8)),
        (48, (1, 2, 4, 8, 16, 32, 48)),
    ],
)
def test_buckets_are_powers_of_two_and_the_cap(cap, sizes):
    assert bucket_sizes(cap) == sizes


@given(st.integers(1, 5000), st.integers(1, 300))
def test_pieces_cover_all_images_within_their_buckets(count, cap):
    buckets = bucket_sizes(cap)
    pieces = pieces_of(count, buckets)
    assert [image for start, stop, _ in pieces for image in range(start, stop)] == list(
        range(count)
    )
    for start, stop, bucket in pieces:
        assert bucket == bucket_of(stop - start, buckets)
        assert stop - start <= bucket
        assert bucket == 1 or bucket < 2 * (stop - start)


@pytest.mark.parametrize("binding", list(Binding))
@pytest.mark.parametrize("replays", [False, True])
def test_padded_and_split_batches_give_what_the_session_gives(exported, rng, binding, replays):
    graph = open_graph(exported.result.path, replays=replays, binding=binding)
    plain = ort.InferenceSession(str(exported.result.path), providers=["CPUExecutionProvider"])
    for count in (8, 1, 3, 5, 17, 2):
        images = rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
        found = graph.run(NAMES, {"images": images})
        expected = plain.run(NAMES, {"images": images})
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.shape == theirs.shape
            assert np.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("binding", list(Binding))
def test_an_answer_stays_when_the_next_batch_runs(exported, rng, binding):
    graph = open_graph(exported.result.path, binding=binding)
    images = rng.integers(0, 256, (2, 4, 16, 16, 3), dtype=np.uint8)
    (first, _) = graph.run(NAMES, {"images": images[0]})
    before = first.copy()
    graph.run(NAMES, {"images": images[1]})
    assert np.array_equal(first, before)


@pytest.mark.parametrize("binding", list(Binding))
def test_threads_may_share_a_graph(exported, rng, binding):
    graph = open_graph(exported.result.path, binding=binding)
    images = rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    expected = [graph.run(NAMES, {"images": images[i : i + 1]})[0] for i in range(6)]
    found: dict[int, np.ndarray] = {}

    def run(index: int) -> None:
        for _ in range(20):
            found[index] = graph.run(NAMES, {"images": images[index : index + 1]})[0]

    threads = [threading.Thread(target=run, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(6):
        assert np.array_equal(found[index], expected[index])


def test_our_own_graphs_can_be_bound_and_tried(exported):
    graph = open_graph(exported.result.path)
    assert bindable(graph)
    runs = []
    try_zeros(graph, lambda names, feeds: runs.append((names, feeds["images"].shape)))
    assert runs == [(NAMES, (1, 16, 16, 3))]


def test_graphs_are_replayed_after_some_runs(exported):
    assert open_graph(exported.result.path).runs_until_warm == 1
    assert open_graph(exported.result.path, replays=True).runs_until_warm > 2


def test_nothing_runs_beside_a_capture():
    gate, inside, overlaps = CaptureGate(), [0, 0], []

    def run(alone: bool) -> None:
        for _ in range(200):
            with gate.run(alone=alone):
                inside[alone] += 1
                if inside[True] and (inside[False] or inside[True] > 1):
                    overlaps.append(tuple(inside))
                inside[alone] -= 1

    threads = [threading.Thread(target=run, args=(index % 3 == 0,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert not overlaps


def test_plain_runs_go_beside_each_other():
    gate, both = CaptureGate(), threading.Barrier(2, timeout=10)

    def run() -> None:
        with gate.run(alone=False):
            both.wait()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not both.broken


def test_where_models_are_recorded_others_pass_the_same_gate(exported):
    passed: list[bool] = []

    class Noting(CaptureGate):
        def run(self, *, alone):
            passed.append(alone)
            return super().run(alone=alone)

    session = ort.InferenceSession(str(exported.result.path), providers=["CPUExecutionProvider"])
    images = np.zeros((2, 16, 16, 3), np.uint8)
    for cuda_graphs, replays, expected in (
        (False, False, []),
        (True, False, [False] * 6),
        (True, True, [True] * 4 + [False] * 2),
    ):
        passed.clear()
        options = GpuOptions(max_batch_size=2, cuda_graphs=cuda_graphs, gate=Noting())
        graph = GpuGraph(session, CPU, options, replays=replays)
        for _ in range(6):
            graph.run(NAMES, {"images": images})
        assert passed == expected
