from __future__ import annotations

import pytest

from service.engine.digest import BLANK_DIGEST, check_digest, seal

FILE = b'weights {"file_digest":"' + BLANK_DIGEST.encode() + b'","labels":["a"]} more weights'


def digest_in(sealed: bytes) -> str:
    return sealed.split(b'"file_digest":"')[1][:64].decode()


def test_a_sealed_file_matches_and_keeps_its_length():
    sealed = seal(FILE)
    assert len(sealed) == len(FILE)
    assert check_digest(sealed, digest_in(sealed)) == "matches"


@pytest.mark.parametrize("place", [0, 3, 20, 95, -1])
def test_any_changed_byte_shows(place):
    sealed = seal(FILE)
    damaged = bytearray(sealed)
    damaged[place] ^= 1
    assert check_digest(bytes(damaged), digest_in(sealed)) == "differs"


def test_a_file_without_its_digest_or_with_two():
    sealed = seal(FILE)
    assert check_digest(sealed, None) == "absent"
    assert check_digest(sealed, "1" * 64) == "differs"
    assert check_digest(sealed + sealed, digest_in(sealed)) == "differs"
    with pytest.raises(ValueError, match="just once"):
        seal(b"no place for it")
