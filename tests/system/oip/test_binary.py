"""Binary tensors and compression: cases C15 to C22 of the checklist, and edge cases B1 to B16."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.system.oip.wire import (
    INFER,
    JSON_BYTES,
    OUTPUTS,
    SHAPE,
    binary,
    binary_tensor,
    bytes_tensor,
    encoded,
    files,
    infer,
    is_refused,
    outputs,
    pack,
    pictures,
    post,
    send,
    split,
    tensor,
)

PIXELS = pictures(2)
RAW = PIXELS.tobytes()
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.fixture
def expected(api):
    return infer(api, PIXELS)


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)
    return True


def test_c15_the_default_of_tritons_client_equals_json(api, expected):
    content, headers = binary(PIXELS)
    assert same(outputs(api.post(INFER, content=content, headers=headers)), expected)


def test_c18_sizes_sum_to_the_body(api):
    content, headers = binary(PIXELS)
    document, rest = split(api.post(INFER, content=content, headers=headers))
    sizes = [output["parameters"]["binary_data_size"] for output in document["outputs"]]
    assert sizes == [2 * 10 * 4] * 2
    assert sum(sizes) == len(rest)
    assert not any("data" in output for output in document["outputs"])


def test_b1_without_header_and_binary_input_the_body_is_json(api, expected):
    assert same(outputs(post(api, {"inputs": [tensor(PIXELS)]})), expected)
    forgotten, _ = binary(PIXELS)
    assert is_refused(api.post(INFER, content=forgotten), 400, "JSON")
    lying = {"inputs": [binary_tensor(PIXELS)]}
    assert is_refused(post(api, lying), 400, JSON_BYTES)


def test_b2_a_header_of_the_whole_body(api, expected):
    content, headers = pack({"inputs": [tensor(PIXELS)]})
    answer = api.post(INFER, content=content, headers=headers)
    assert JSON_BYTES not in answer.headers
    assert same(outputs(answer), expected)


@pytest.mark.parametrize("stated", ["999999", "-1", "+5", "1_0", "12.0", "", "0x10", "abc",
                                    "99999999999999999999"])  # fmt: skip
def test_b3_c16_a_header_that_is_no_length(api, stated):
    content, _ = binary(PIXELS)
    answer = api.post(INFER, content=content, headers={JSON_BYTES: stated})
    assert is_refused(answer, 400, JSON_BYTES)


def test_b3_c16_a_header_that_is_there_twice(api):
    content, headers = binary(PIXELS)
    twice = [(JSON_BYTES, headers[JSON_BYTES])] * 2
    assert is_refused(api.post(INFER, content=content, headers=twice), 400, JSON_BYTES)


@pytest.mark.parametrize("off", [-20, -1, 1, 100])
def test_b4_c16_a_header_that_cuts_the_json_or_reaches_behind_it(api, off):
    content, headers = binary(PIXELS)
    stated = {JSON_BYTES: str(int(headers[JSON_BYTES]) + off)}
    assert is_refused(api.post(INFER, content=content, headers=stated), 400, "JSON")


@pytest.mark.parametrize("missing", [1, 3072, len(RAW)])
def test_b5_c16_too_few_tensor_bytes(api, missing):
    content, headers = binary(PIXELS)
    answer = api.post(INFER, content=content[:-missing], headers=headers)
    assert is_refused(answer, 400, str(len(RAW)))


def test_b6_c16_bytes_left_over(api):
    content, headers = binary(PIXELS)
    answer = api.post(INFER, content=content + b"x", headers=headers)
    assert is_refused(answer, 400, str(len(RAW)), str(len(RAW) + 1))


@pytest.mark.parametrize("count", [1, 3, 2**40, 2**62])
def test_b7_c16_a_size_that_is_not_that_of_the_shape(api, count):
    given = binary_tensor(PIXELS, shape=[count, *SHAPE])
    content, headers = pack({"inputs": [given]}, RAW)
    answer = api.post(INFER, content=content, headers=headers)
    assert is_refused(answer, 400, "binary_data_size", str(len(RAW)))


@pytest.mark.parametrize("size", [True, "6144", 6144.0, -6144, None, [6144]])
def test_b8_c16_a_size_that_is_no_number_of_bytes(api, size):
    given = binary_tensor(PIXELS, parameters={"binary_data_size": size})
    content, headers = pack({"inputs": [given]}, RAW)
    answer = api.post(INFER, content=content, headers=headers)
    assert is_refused(answer, 400, "binary_data_size")


def test_b9_c16_both_or_neither_kind_of_data(api):
    both = {**tensor(PIXELS), "parameters": {"binary_data_size": len(RAW)}}
    neither = {key: value for key, value in both.items() if key not in ("data", "parameters")}
    for given, blobs in ((both, [RAW]), (neither, [])):
        content, headers = pack({"inputs": [given]}, *blobs)
        assert is_refused(api.post(INFER, content=content, headers=headers), 400, "data")


def test_b10_c17_a_binary_input_beside_one_of_json(api, expected):
    """Every model has one input, so another is unknown; but the body is taken apart rightly."""
    other = {"name": "other", "shape": [2], "datatype": "FP32", "data": [1, float("nan")]}
    for inputs in ([binary_tensor(PIXELS), other], [other, binary_tensor(PIXELS)]):
        content, headers = pack({"inputs": inputs}, RAW)
        answer = api.post(INFER, content=content, headers=headers)
        assert is_refused(answer, 400, "'other'", "exactly one")
    content, headers = pack(
        {
            "inputs": [tensor(PIXELS)],
            "outputs": [
                {"name": "logits", "parameters": {"binary_data": True}},
                {"name": "probabilities"},
            ],
        }
    )
    assert same(outputs(api.post(INFER, content=content, headers=headers)), expected)


def test_b11_an_empty_batch(api):
    for given in (binary_tensor(PIXELS[:0]), tensor(PIXELS[:0]), files([])):
        content, headers = pack({"inputs": [given]})
        assert is_refused(api.post(INFER, content=content, headers=headers), 400, "empty")


@pytest.mark.parametrize(
    ("blob", "count"),
    [
        (b"\x01\x00\x00", 1),
        (b"\x05\x00\x00\x00abc", 1),
        (b"\xff\xff\xff\xffabc", 1),
        (bytes_tensor([b"a", b"b"]), 1),
        (bytes_tensor([b"a", b"b"]), 3),
        (bytes_tensor([b"a"]) + b"\x00", 1),
        (b"", 1),
    ],
)
def test_b12_c17_bytes_that_are_no_elements(api, blob, count):
    given = files([], shape=[count])
    del given["data"]
    given["parameters"] = {"binary_data_size": len(blob)}
    content, headers = pack({"inputs": [given]}, blob)
    assert is_refused(api.post(INFER, content=content, headers=headers), 400, "element")


def test_b12_image_files_as_bytes(api, expected):
    sent = [encoded(one) for one in PIXELS]
    blob = bytes_tensor(sent)
    for shape in ([2], [2, 1]):
        given = files([], shape=shape)
        del given["data"]
        given["parameters"] = {"binary_data_size": len(blob)}
        content, headers = pack({"inputs": [given]}, blob)
        assert same(outputs(api.post(INFER, content=content, headers=headers)), expected)


def test_b13_c17_a_raw_request(api):
    one = PIXELS[:1]
    answer = api.post(INFER, content=one.tobytes(), headers={JSON_BYTES: "0"})
    document, _ = split(answer)
    assert [output["parameters"] for output in document["outputs"]] == [
        {"binary_data_size": 40}
    ] * 2
    assert same(outputs(answer), infer(api, one))
    for wrong in (b"", one.tobytes()[1:], RAW):
        answer = api.post(INFER, content=wrong, headers={JSON_BYTES: "0"})
        assert is_refused(answer, 400, str(len(wrong)), "3072")


@pytest.mark.parametrize(
    ("all_binary", "stated", "expected_binary"),
    [(True, None, True), (True, False, False), (True, True, True), (False, None, False),
     (False, True, True), (None, None, False), (None, True, True)],
)  # fmt: skip
def test_b14_an_output_s_own_word_counts(api, all_binary, stated, expected_binary):
    parameters = {} if all_binary is None else {"binary_data_output": all_binary}
    own = {} if stated is None else {"binary_data": stated}
    request = {
        "inputs": [tensor(PIXELS)],
        "parameters": parameters,
        "outputs": [{"name": "logits", "parameters": own}],
    }
    document, rest = split(post(api, request))
    assert bool(rest) is expected_binary
    assert ("data" in document["outputs"][0]) is not expected_binary
    wrong = {**request, "outputs": [{"name": "logits", "parameters": {"binary_data": 1}}]}
    assert is_refused(post(api, wrong), 400, "binary_data")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "GZIP", "x-gzip"])
def test_b15_c19_compressed_requests(api, expected, coding):
    compress = COMPRESSORS["deflate" if coding == "deflate" else "gzip"]
    for content, headers in (binary(PIXELS), pack({"inputs": [tensor(PIXELS)]})):
        sent = {**headers, "Content-Encoding": coding}
        answer = api.post(INFER, content=compress(content), headers=sent)
        assert same(outputs(answer), expected)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_b15_what_is_no_compressed_body(api, coding):
    good = COMPRESSORS[coding](pack({"inputs": [tensor(PIXELS)]})[0])
    for wrong in (good[:-1], good[: len(good) // 2], good + b"x", good + good, b"", b"junk"):
        answer = api.post(INFER, content=wrong, headers={"Content-Encoding": coding})
        assert is_refused(answer, 400, coding)


def test_b16_binary_outputs_keep_their_bits(api):
    content, headers = binary(PIXELS)
    document, rest = split(api.post(INFER, content=content, headers=headers))
    assert [output["datatype"] for output in document["outputs"]] == ["FP32"] * 2
    by_json = infer(api, PIXELS)
    # Written in the shortest form that is read back as the same float32.
    assert by_json["logits"].tobytes() + by_json["probabilities"].tobytes() == rest


@pytest.mark.parametrize("accepted", ["gzip", "deflate", "br, gzip;q=0.5", "gzip, deflate, br"])
def test_c20_compressed_replies(api, expected, accepted):
    content, headers = binary(PIXELS)
    headers["Accept-Encoding"] = accepted
    with api.stream("POST", INFER, content=content, headers=headers) as answer:
        raw = b"".join(answer.iter_raw())
    coding = answer.headers["content-encoding"]
    assert coding == ("deflate" if accepted == "deflate" else "gzip")
    assert int(answer.headers["content-length"]) == len(raw)
    inflated = gzip.decompress(raw) if coding == "gzip" else zlib.decompress(raw)
    length = int(answer.headers[JSON_BYTES])
    assert json.loads(inflated[:length])["model_name"] == "cifar10"
    assert len(inflated) == length + 2 * 2 * 10 * 4
    assert same(outputs(api.post(INFER, content=content, headers=headers)), expected)


@pytest.mark.parametrize("accepted", ["br", "identity", "gzip;q=0", "*", "", "zstd, deflate;q=0.0"])
def test_c20_replies_are_not_compressed_unasked(api, accepted):
    answer = api.post(INFER, content=b"{}", headers={"Accept-Encoding": accepted})
    assert is_refused(answer, 400)
    content, headers = binary(PIXELS)
    answer = api.post(INFER, content=content, headers={**headers, "Accept-Encoding": accepted})
    assert "content-encoding" not in answer.headers
    assert answer.headers["vary"] == "accept-encoding"


def memory(pid: int) -> int:
    """Resident bytes of a process at most, so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_c21_a_bomb_is_not_inflated(shipped, api, coding):
    compressor = zlib.compressobj(9, wbits=31 if coding == "gzip" else 15)
    zeros = bytes(2**20)
    first = compressor.compress(zeros) + compressor.flush(zlib.Z_FULL_FLUSH)
    block = compressor.compress(zeros) + compressor.flush(zlib.Z_FULL_FLUSH)
    bomb = first + block * 1023 + compressor.flush()
    assert len(bomb) < 2 * 2**20
    before = memory(shipped.process.pid)
    answer = api.post(INFER, content=bomb, headers={"Content-Encoding": coding})
    assert is_refused(answer, 413, "inflated", str(64 * 2**20))
    assert memory(shipped.process.pid) - before < 160 * 2**20


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, deflate", "compress", "nonsense"])
def test_c22_other_codings(api, coding):
    content, headers = binary(PIXELS)
    answer = api.post(INFER, content=content, headers={**headers, "Content-Encoding": coding})
    assert is_refused(answer, 415, coding)
    assert answer.headers["accept-encoding"] == "gzip, deflate"


def test_a_thousand_pictures(api):
    pixels = pictures(1000)
    content, headers = binary(pixels)
    many = outputs(api.post(INFER, content=content, headers=headers))
    assert many["logits"].shape == (1000, 10)
    by_json = infer(api, pixels)
    for name in OUTPUTS:
        np.testing.assert_allclose(many[name], by_json[name], atol=1e-4)
    last = infer(api, pixels[-1:])
    np.testing.assert_allclose(many["logits"][-1], last["logits"][0], atol=1e-4)


def test_a_body_that_comes_in_pieces(shipped, expected):
    content, headers = binary(PIXELS)
    head = f"POST {INFER} HTTP/1.1\nHost: x\nConnection: close\nContent-Length: {len(content)}\n"
    with send(shipped, f"{head}{JSON_BYTES}: {headers[JSON_BYTES]}\n\n") as connection:
        for start in range(0, len(content), 1000):
            connection.sendall(content[start : start + 1000])
            time.sleep(0.001)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head_bytes, _, body = answer.partition(b"\r\n\r\n")
    assert head_bytes.startswith(b"HTTP/1.1 200")
    logits = np.frombuffer(body[-160:-80], "<f4").reshape(2, 10)
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-5)
