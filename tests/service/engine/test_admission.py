from __future__ import annotations

import pytest

from service.engine.admission import Admission, AdmissionLimits
from service.engine.errors import QueueFullError, RequestTooLargeError


def test_images_and_memory_are_bounded_and_given_back():
    admission = Admission(AdmissionLimits(images=10, pixel_bytes=100))
    with admission.admit(6, 60):
        with pytest.raises(QueueFullError, match="6 images are in work; the limit is 10"):
            admission.admit(5, 1).__enter__()
        with pytest.raises(QueueFullError, match="60 bytes"):
            admission.admit(1, 41).__enter__()
        with admission.admit(4, 40):
            pass
    with pytest.raises(ZeroDivisionError), admission.admit(10, 100):
        raise ZeroDivisionError
    with admission.admit(10, 100):
        pass


def test_an_empty_service_takes_any_number_but_not_any_memory():
    admission = Admission(AdmissionLimits(images=10, pixel_bytes=100))
    with admission.admit(11, 100):
        pass
    with pytest.raises(RequestTooLargeError, match="101"):
        admission.admit(1, 101).__enter__()
