import pytest
from comparison.ceilings import bound


def test_bound_is_all_cores_over_core_seconds_of_an_image():
    # 0.25 ms of decoding and 1 ms of inference an image, on two cores.
    assert bound(0.00025, 2000, 2) == pytest.approx(2 / 0.00125)


def test_without_decoding_the_bound_is_inference_alone():
    assert bound(0.0, 1703, 2) == pytest.approx(1703)
