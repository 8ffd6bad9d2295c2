"""HTTPS with certificates that are made here."""

from __future__ import annotations

import contextlib
import datetime
import io
import ipaddress
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.conftest import ADARESNET, LOG_TO_READ, Exported, draw, free_port
from tests.system.prometheus import eventually


@dataclass(frozen=True)
class Certificate:
    """A certificate for 127.0.0.1 that signs itself, as two files."""

    file: Path
    key: Path

    @property
    def serial(self) -> int:
        return x509.load_pem_x509_certificate(self.file.read_bytes()).serial_number


def write_certificate(folder: Path) -> Certificate:
    """Make one, over the last one if there is one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    made.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made


@dataclass(frozen=True)
class Encrypted:
    process: subprocess.Popen[bytes]
    port: int
    admin: str
    log: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def shown_serial(self) -> int:
        """Of the certificate that a new connection is shown."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=30) as plain,
            context.wrap_socket(plain) as encrypted,
        ):
            shown = encrypted.getpeercert(binary_form=True)
        assert shown
        return x509.load_der_x509_certificate(shown).serial_number


@contextlib.contextmanager
def serving_tls(exported: Exported, folder: Path, *flags: str) -> Iterator[Encrypted]:
    port, admin = free_port(), free_port()
    log = folder / f"server-{port}.log"
    command = [str(ADARESNET), "serve", "--models", str(exported.repository), "--port", str(port)]
    files = ("--tls-certificate", f"{folder}/certificate.pem", "--tls-key", f"{folder}/key.pem")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *files, "--admin-port", str(admin), *flags],
            stderr=output,
            stdout=output,
            env={**LOG_TO_READ, **os.environ},
        )
    running = Encrypted(process, port, f"http://127.0.0.1:{admin}", log)

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(httpx.TransportError):
            # Over connections of their own, which lead to all workers.
            return all(httpx.get(f"{running.admin}/readyz").status_code == 200 for _ in range(12))
        return False

    try:
        eventually(ready, timeout_s=60)
        yield running
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def picture(rng) -> bytes:
    buffer = io.BytesIO()
    draw("blue", rng).save(buffer, "PNG")
    return buffer.getvalue()


def trusting(certificate: Certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate.file))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_https(exported: Exported, tmp_path, picture, workers):
    certificate = write_certificate(tmp_path)
    with serving_tls(exported, tmp_path, "--workers", workers) as server:
        for _ in range(6):
            with httpx.Client(base_url=server.url, verify=trusting(certificate)) as client:
                answer = client.post("/v1/classify", content=picture)
                assert answer.status_code == 200
                assert answer.json()["results"][0]["predictions"][0]["label"] == "blue"
                assert client.get("/healthz").status_code == 200
        assert f"listening on https://127.0.0.1:{server.port}" in server.log.read_text()
        # Without encryption there is nothing to be had.
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{server.port}/healthz")
        with httpx.Client(base_url=server.url, verify=trusting(certificate)) as client:
            assert client.get("/healthz").status_code == 200
        assert server.process.poll() is None
    assert "Traceback" not in server.log.read_text()


def test_a_large_body_and_a_hang_up_over_tls(exported: Exported, tmp_path, picture):
    certificate = write_certificate(tmp_path)
    with serving_tls(exported, tmp_path) as server:
        context = trusting(certificate)
        files = [("f", ("a.png", picture))] * 6000
        with httpx.Client(base_url=server.url, verify=context, timeout=60) as client:
            answer = client.post("/v1/classify?top_k=1", files=files)
            assert answer.status_code == 200
            assert len(answer.json()["results"]) == 6000
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as leaving,
        ):
            leaving.sendall(
                b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nX-Request-ID: gone\r\n"
                b"Content-Length: 5000\r\n\r\nx"
            )
            time.sleep(0.2)
        eventually(lambda: " ms gone\n" in server.log.read_text())
    log = server.log.read_text()
    assert " 499 " in log
    assert "Traceback" not in log
    assert "has no effect" not in log


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sighup_takes_a_new_certificate(exported: Exported, tmp_path, workers):
    before = write_certificate(tmp_path).serial
    with serving_tls(exported, tmp_path, "--workers", workers) as server:
        assert server.shown_serial() == before
        after = write_certificate(tmp_path).serial
        assert {server.shown_serial() for _ in range(8)} == {before}
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: {server.shown_serial() for _ in range(8)} == {after}, timeout_s=60)
        assert server.process.poll() is None


def test_a_broken_certificate_is_not_taken(exported: Exported, tmp_path):
    certificate = write_certificate(tmp_path)
    before, key = certificate.serial, certificate.key.read_bytes()
    with serving_tls(exported, tmp_path) as server:
        write_certificate(tmp_path)
        certificate.key.write_bytes(key)  # of the one before
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "from before goes on" in server.log.read_text())
        assert {server.shown_serial() for _ in range(4)} == {before}


def test_a_handshake_that_does_not_end_is_given_up(exported: Exported, tmp_path):
    write_certificate(tmp_path)
    with serving_tls(exported, tmp_path, "--head-timeout-s", "1") as server:
        for begun in (b"", b"\x16\x03\x01\x02"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as plain:
                plain.sendall(begun)
                with contextlib.suppress(ConnectionError):
                    while plain.recv(1000):
                        pass
        assert server.shown_serial()


def test_who_never_says_anything_makes_room(exported: Exported, tmp_path):
    write_certificate(tmp_path)
    limits = ("--max-connections", "4", "--head-timeout-s", "60")
    with contextlib.ExitStack() as stack, serving_tls(exported, tmp_path, *limits) as server:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            for _ in range(12)
        ]
        assert [plain.recv(1) for plain in silent[:8]] == [b""] * 8
        assert server.shown_serial()
        assert silent[8].recv(1) == b""
