from __future__ import annotations

import ssl

import pytest

from service.api.tls import certificate_of
from tests.system.test_tls import write_certificate


def test_old_versions_are_not_spoken(tmp_path):
    made = write_certificate(tmp_path)
    certificate = certificate_of(made.file, made.key)
    assert certificate is not None
    assert certificate.context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_without_files_there_is_no_certificate(tmp_path):
    assert certificate_of(None, None) is None
    made = write_certificate(tmp_path)
    for pair in ((made.file, None), (None, made.key)):
        with pytest.raises(ValueError, match="each other"):
            certificate_of(*pair)
    for file, key in ((made.file, made.file), (made.key, made.key), (made.file, tmp_path / "none")):
        with pytest.raises(ValueError, match=r"tls_certificate .* can't be used"):
            certificate_of(file, key)
    (tmp_path / "other").mkdir()
    other = write_certificate(tmp_path / "other")
    with pytest.raises(ValueError, match="can't be used"):
        certificate_of(made.file, other.key)
