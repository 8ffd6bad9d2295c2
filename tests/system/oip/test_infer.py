"""Inferences with JSON: cases C5 to C14 and C24 to C26 of the conformance checklist."""

from __future__ import annotations

import io

import httpx
import numpy as np
import pytest

from tests.system.oip.wire import (
    INFER,
    OUTPUTS,
    SHAPE,
    infer,
    is_refused,
    outputs,
    pictures,
    post,
    tensor,
)

ONE = pictures(1)


def test_c5_flat_and_nested_data_are_the_same(api):
    pixels = pictures(3)
    flat = infer(api, pixels)
    nested = outputs(post(api, {"inputs": [tensor(pixels, nested=True)]}))
    versioned = post(api, {"inputs": [tensor(pixels)]}, "/v2/models/cifar10/versions/1/infer")
    assert flat["logits"].shape == (3, 10)
    for name in OUTPUTS:
        np.testing.assert_array_equal(flat[name], nested[name])
        np.testing.assert_array_equal(flat[name], outputs(versioned)[name])
    np.testing.assert_allclose(flat["probabilities"].sum(axis=1), 1, atol=1e-5)


def test_scores_are_those_of_classify(api):
    pixels = pictures(4)
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    classified = api.post("/v1/classify", params={"top_k": 10}, content=buffer.getvalue()).json()
    probabilities = infer(api, pixels)["probabilities"]
    for row, result in zip(probabilities, classified["results"], strict=True):
        for one in result["predictions"]:
            assert row[one["class_id"]] == pytest.approx(one["probability"], abs=1e-5)


@pytest.mark.parametrize("identity", ["a1", "", 'é " \\ \n', "x" * 1000])
def test_c6_the_id_comes_back_as_it_was(api, identity):
    answer = post(api, {"id": identity, "inputs": [tensor(ONE)]})
    assert answer.json()["id"] == identity
    assert "id" not in post(api, {"inputs": [tensor(ONE)]}).json()
    assert is_refused(post(api, {"id": 7, "inputs": [tensor(ONE)]}), 400, "'id'", "7")


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ({}, OUTPUTS),
        ({"outputs": []}, OUTPUTS),
        ({"outputs": [{"name": "probabilities"}]}, ["probabilities"]),
        ({"outputs": [{"name": "probabilities"}, {"name": "logits"}]}, OUTPUTS[::-1]),
    ],
)
def test_c7_all_outputs_unless_some_are_asked_for(api, asked, given):
    answer = post(api, {"inputs": [tensor(ONE)], **asked}).json()
    assert [output["name"] for output in answer["outputs"]] == given
    assert (answer["model_name"], answer["model_version"]) == ("cifar10", "1")


def test_c8_unknown_outputs(api):
    request = {"inputs": [tensor(ONE)]}
    for asked in ([{"name": "scores"}], [{"name": "logits"}, {"name": "scores"}]):
        assert is_refused(
            post(api, {**request, "outputs": asked}), 400, "scores", "logits", "probabilities"
        )
    twice = [{"name": "logits"}, {"name": "logits"}]
    assert is_refused(post(api, {**request, "outputs": twice}), 400, "twice")
    wrongs: tuple[object, ...] = ("logits", ["logits"], [{}], [{"name": 1}])
    for wrong in wrongs:
        assert is_refused(post(api, {**request, "outputs": wrong}), 400, "output")


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        [tensor(ONE, name="pixels")],
        [tensor(ONE), tensor(ONE)],
        [tensor(ONE), tensor(ONE, name="mask")],
        None,
        {},
        ["images"],
        [{}],
        [tensor(ONE, name=None)],
    ],
)
def test_c9_unknown_missing_or_duplicate_inputs(api, inputs):
    assert is_refused(post(api, {"inputs": inputs}), 400, "input")
    assert is_refused(post(api, {}), 400, "'inputs'")


@pytest.mark.parametrize("datatype", ["FP32", "INT8", "BOOL", "INT64"])
def test_c10_a_wrong_datatype_names_both(api, datatype):
    answer = post(api, {"inputs": [tensor(ONE, datatype=datatype)]})
    assert is_refused(answer, 400, datatype, "UINT8")
    for odd in ("uint8", "UINT128", None, 8):
        assert is_refused(post(api, {"inputs": [tensor(ONE, datatype=odd)]}), 400, "datatype")


@pytest.mark.parametrize(
    "shape", [[1, 32, 3, 32], [32, 32, 3], [1, 32, 32, 3, 1], [3072], [], [1, 16, 64, 3]]
)
def test_c11_a_wrong_shape_names_both(api, shape):
    answer = post(api, {"inputs": [tensor(ONE, shape=shape)]})
    assert is_refused(answer, 400, str(shape), "[-1, 32, 32, 3]")


@pytest.mark.parametrize("shape", [[-1, *SHAPE], [1.0, *SHAPE], [True, *SHAPE], ["1", *SHAPE],
                                   [2**64, *SHAPE], None, "1", [1] * 40])  # fmt: skip
def test_c11_a_shape_that_is_none(api, shape):
    assert is_refused(post(api, {"inputs": [tensor(ONE, shape=shape)]}), 400, "shape")


@pytest.mark.parametrize("count", [0, 3071, 3073, 6144])
def test_c12_data_of_another_length_than_the_shape(api, count):
    answer = post(api, {"inputs": [tensor(ONE, data=[0] * count)]})
    assert is_refused(answer, 400, str(count), "3072")


@pytest.mark.parametrize("change", ["ragged", "shallow", "deep", "short", "mixed"])
def test_c12_nested_data_of_another_form_than_the_shape(api, change):
    data = ONE.tolist()
    if change == "ragged":
        data[0][3][4].append(data[0][3][5].pop())
    elif change == "shallow":
        data = ONE.reshape(1, -1).tolist()
    elif change == "deep":
        data = [data]
    elif change == "short":
        data[0].pop()
    else:
        data[0][0] = 7
    assert is_refused(post(api, {"inputs": [tensor(ONE, data=data)]}), 400, "[1, 32, 32, 3]")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("odd", [300, -1, 1.5, "7", True, None, {}, 10**30])
def test_c13_what_is_no_uint8(api, odd, nested):
    request = tensor(ONE, nested=nested)
    if nested:
        request["data"][0][1][2][0] = odd
        index = 1 * 96 + 2 * 3
    else:
        request["data"][index := 2000] = odd
    words = ("uint8", "0 to 255", str(index))
    assert is_refused(post(api, {"inputs": [request]}), 400, *words)


def test_c14_more_images_than_a_batch_holds(api):
    most = api.get("/v2/models/cifar10/config").json()
    batch = max(most["dynamic_batching"]["preferred_batch_size"])
    pixels = pictures(4 * batch + 3)
    together = infer(api, pixels)
    assert together["logits"].shape == (len(pixels), 10)
    for index in (0, batch, 4 * batch + 2):
        alone = infer(api, pixels[index : index + 1])
        np.testing.assert_allclose(together["logits"][index], alone["logits"][0], atol=1e-4)


def test_unknown_keys_do_no_harm(api):
    request = {
        "inputs": [{**tensor(ONE), "extra": {"a": [1]}, "parameters": {"content_type": "np"}}],
        "outputs": [{"name": "logits", "whatever": None, "parameters": {"foo": 1}}],
        "parameters": {"priority": 3, "sequence_id": "s", "sequence_start": True, "mine": 1.5},
        "model_version": "7",
        "more": None,
    }
    assert outputs(post(api, request))["logits"].shape == (1, 10)


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"triton_enable_empty_final_response": True}, "triton_"),
        ({"a": [1]}, "'a'"),
        ({"a": {}}, "'a'"),
        ({"a": None}, "'a'"),
        ({"binary_data_output": 1}, "binary_data_output"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"timeout": 1e6}, "timeout"),
        ({"timeout": "1"}, "timeout"),
        ({"timeout": 10**12}, "limit"),
        ([], "parameters"),
    ],
)
def test_wrong_parameters(api, parameters, word):
    answer = post(api, {"inputs": [tensor(ONE)], "parameters": parameters})
    assert is_refused(answer, 400, word)


def test_a_timeout_is_in_microseconds(api):
    request = {"inputs": [tensor(ONE)], "parameters": {"timeout": 30_000_000}}
    assert post(api, request).status_code == 200
    assert post(api, {**request, "parameters": {"timeout": 0}}).status_code == 200
    hurry = {"X-Request-Timeout": "0.001ms"}
    assert is_refused(api.post(INFER, json={"inputs": [tensor(ONE)]}, headers=hurry), 504)
    assert api.post(INFER, json=request, headers=hurry).status_code == 200
    odd = {"X-Request-Timeout": "soon"}
    assert is_refused(api.post(INFER, json=request, headers=odd), 400, "soon")


@pytest.mark.parametrize("name", OUTPUTS)
def test_c24_classification(api, name):
    pixels = pictures(3)
    labels = api.get("/v1/models/cifar10").json()["classes"]
    scores = infer(api, pixels)[name]

    def best(k: object) -> httpx.Response:
        asked = [{"name": name, "parameters": {"classification": k}}]
        return post(api, {"inputs": [tensor(pixels)], "outputs": asked})

    (two,) = best(2).json()["outputs"]
    assert (two["datatype"], two["shape"]) == ("BYTES", [3, 2])
    for row, texts in zip(scores, outputs(best(20))[name], strict=True):
        found = [text.split(":", 2) for text in texts]
        assert len(found) == 10
        assert [label for _, _, label in found] == [labels[int(index)] for _, index, _ in found]
        order = [int(index) for _, index, _ in found]
        assert order == sorted(range(10), key=lambda index: -row[index])
        for value, index, _ in found:
            assert len(value.rpartition(".")[2]) == 6
            assert float(value) == pytest.approx(row[int(index)], abs=1e-4)
    assert best(0).json()["outputs"][0]["datatype"] == "FP32"
    for wrong in (-1, True, 1.0, "2", None):
        assert best(wrong).status_code == 400


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_c25_half_precision_is_never_json(api, datatype):
    assert is_refused(post(api, {"inputs": [tensor(ONE, datatype=datatype)]}), 400, datatype)


SHARED = {"shared_memory_region": "r", "shared_memory_byte_size": 3072}


def test_c26_shared_memory(api):
    lying = {key: value for key, value in tensor(ONE).items() if key != "data"}
    request = {"inputs": [{**lying, "parameters": SHARED}]}
    words = "shared memory is not supported; send binary tensor data"
    assert is_refused(post(api, request), 400, words)
    asked = {"inputs": [tensor(ONE)], "outputs": [{"name": "logits", "parameters": SHARED}]}
    assert is_refused(post(api, asked), 400, words)
    for kind in ("system", "cuda"):
        memory = f"/v2/{kind}sharedmemory"
        for method, path in (
            ("POST", f"{memory}/region/r/register"),
            ("POST", f"{memory}/region/r/unregister"),
            ("POST", f"{memory}/unregister"),
            ("GET", f"{memory}/region/r/status"),
            ("GET", f"{memory}/status"),
        ):
            assert is_refused(api.request(method, path), 501, "shared memory is not supported")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_logging_and_tracing_are_not_supported(api, method):
    model = "/v2/models/cifar10"
    for path, word in (
        ("/v2/logging", "log"),
        ("/v2/trace/setting", "trac"),
        (f"{model}/trace/setting", "trac"),
        (f"{model}/versions/1/trace/setting", "trac"),
    ):
        assert is_refused(api.request(method, path), 501, word)
