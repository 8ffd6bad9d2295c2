"""Who may call, seen from outside: a real process, real keys, real tokens."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import hashlib
import io
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.cli import main
from tests.conftest import ADARESNET, Exported, Server, draw, free_port, serving
from tests.identity_provider import AUDIENCE, IdentityProvider
from tests.system.prometheus import eventually
from tests.system.test_workers import ready, two_workers

CLASSIFY = "/v1/classify"
LOAD = "/v2/repository/models/colors/load"


def create_key(name: str, scopes: str = "predict") -> tuple[str, str]:
    """A new key, and the line for the service, as the command writes them."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        assert main(["create-key", "--name", name, "--scope", scopes]) == 0
    return errors.getvalue().rpartition(" ")[2].strip(), output.getvalue()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def keys() -> dict[str, tuple[str, str]]:
    return {
        "app": create_key("app"),
        "operator": create_key("operator", "manage"),
        "all": create_key("all", "predict,manage"),
    }


@pytest.fixture(scope="module")
def guarded(exported: Exported, keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("guarded")
    file = folder / "keys.toml"
    file.write_text("".join(line for _, line in keys.values()))
    flags = ("--api-keys-file", str(file), "--cors-origins", "https://app.example.org")
    with serving(exported.repository, folder, *flags) as server:
        yield server


@pytest.fixture
def picture(rng) -> bytes:
    buffer = io.BytesIO()
    draw("red", rng).save(buffer, "PNG")
    return buffer.getvalue()


def test_without_a_key_nothing_is_answered_but_probes(guarded: Server, picture):
    with guarded.client() as client:
        for path in ("/healthz", "/readyz", "/"):
            assert client.get(path).status_code == 200, path
        for path in ("/v1/models", "/metrics", "/docs", "/openapi.json", "/nope", CLASSIFY):
            assert client.get(path).status_code == 401, path
        for headers in ({}, bearer("wrong"), {"X-API-Key": "wrong"}):
            answer = client.post(CLASSIFY, content=picture, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer ")
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["code"] == "unauthorized"
        lines = client.post(CLASSIFY, content=picture, headers={"Accept": "application/x-ndjson"})
        assert lines.status_code == 401
        page = client.get("/", headers={"Accept": "text/html"})
        assert page.status_code == 200
        assert "colors" not in page.text


def test_with_a_key_and_its_scopes(guarded: Server, keys, picture):
    app, operator, both = (keys[name][0] for name in ("app", "operator", "all"))
    with guarded.client() as client:
        for headers in (bearer(app), {"X-API-Key": app}, bearer(both)):
            answer = client.post(CLASSIFY, content=picture, headers=headers)
            assert answer.status_code == 200, answer.text
            assert answer.json()["results"][0]["predictions"][0]["label"] == "red"
            assert client.get("/v1/models", headers=headers).status_code == 200
        for key, path in ((operator, CLASSIFY), (app, LOAD)):
            answer = client.post(path, content=picture, headers=bearer(key))
            assert answer.status_code == 403
            assert "insufficient_scope" in answer.headers["www-authenticate"]
        assert client.get("/metrics", headers=bearer(operator)).status_code == 200
        assert client.post(LOAD, headers=bearer(both)).status_code != 403


def raw(server: Server, request: bytes) -> bytes:
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").read()


@pytest.mark.parametrize(
    "target",
    [
        *("//v1/classify", "/v1//classify", "/./v1/classify", "/healthz/../v1/classify"),
        *("/%76%31/classify", "/v1%2Fclassify", "/healthz/%2e%2e/v1/classify", "/v1/classify/"),
        *("/V1/CLASSIFY", "/v1/classify;a=b", "/v1/classify%00", "/v1/classify?x=/healthz"),
        *("http://x/v1/classify", "/v1/classify#/healthz", "/healthz;/v1/classify"),
        *("//healthz", "/healthz/", "/healthz%2f", "/healthz%00", "/HEALTHZ"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "PUT"])
def test_no_spelling_of_a_path_leads_round_the_gate(guarded: Server, method, target):
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    answer = raw(guarded, head.encode())
    assert re.match(rb"HTTP/1.1 40[01] ", answer), answer


def test_both_of_two_requests_on_one_connection_need_a_key(guarded: Server, keys):
    get = "GET /v1/models HTTP/1.1\r\nHost: x\r\n"
    key = f"X-API-Key: {keys['app'][0]}\r\n"
    answers = raw(guarded, f"{get}{key}\r\n{get}\r\n".encode())
    assert re.findall(rb"HTTP/1.1 ([2-5]\d\d) ", answers) == [b"200", b"401"]


def test_the_log_names_keys_and_does_not_tell_them(guarded: Server, keys, picture):
    key = keys["app"][0]
    httpx.post(f"{guarded.url}{CLASSIFY}?top_k=2", content=picture, headers=bearer(key))
    eventually(lambda: re.search(r" ms \w+ app\b", guarded.log.read_text()) is not None)
    assert key not in guarded.log.read_text()


def test_origins_that_may_call_are_told_so_before_a_key_is_asked_for(guarded: Server, keys):
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    with guarded.client() as client:
        origin = {"Origin": "https://app.example.org"}
        answer = client.options(CLASSIFY, headers={**preflight, **origin})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == origin["Origin"]
        assert "authorization" in answer.headers["access-control-allow-headers"].lower()
        refused = client.post(CLASSIFY, headers=origin)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == origin["Origin"]
        assert "retry-after" in refused.headers["access-control-expose-headers"].lower()
        other = {"Origin": "https://evil.example.org"}
        answer = client.options(CLASSIFY, headers={**preflight, **other})
        assert answer.status_code == 400
        assert "access-control-allow-origin" not in answer.headers
        answer = client.get("/healthz", headers=other)
        assert "access-control-allow-origin" not in answer.headers


def test_a_preflight_is_a_request_like_others(guarded: Server, keys):
    preflight = {"Access-Control-Request-Method": "POST", "X-Request-ID": "preflight-1"}
    with guarded.client() as client:
        for origin, status in (("https://app.example.org", 200), ("https://evil.org", 400)):

            def count(status: int = status) -> float:
                text = client.get("/metrics", headers=bearer(keys["operator"][0])).text
                name = "adaresnet_request_duration_seconds_count"
                labels = f'{{model="",route="other",status="{status}",version=""}}'
                found = re.search(re.escape(name + labels) + r" (\S+)", text)
                return float(found[1]) if found else 0.0

            before = count()
            answer = client.options(CLASSIFY, headers={**preflight, "Origin": origin})
            assert answer.status_code == status
            assert answer.headers["x-request-id"] == "preflight-1"
            assert count() == before + 1

    def logged() -> list[str]:
        return re.findall(rf"OPTIONS {CLASSIFY} (\d+) \S+ ms preflight-1", guarded.log.read_text())

    eventually(lambda: logged() == ["200", "400"])


def test_without_the_setting_no_origin_may_call(server: Server):
    preflight = {"Access-Control-Request-Method": "POST", "Origin": "https://app.example.org"}
    answer = httpx.options(f"{server.url}{CLASSIFY}", headers=preflight)
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers


def test_headers_that_protect_browsers(server: Server, picture):
    with server.client() as client:
        answers = {
            path: client.get(path, headers={"Accept": "text/html"})
            for path in ("/", "/docs", "/healthz", "/v1/models", "/nope")
        }
        answers["classify"] = client.post(CLASSIFY, content=picture)
        for path, answer in answers.items():
            assert answer.headers["x-content-type-options"] == "nosniff", path
            assert "server" not in answer.headers
        for path in ("/", "/docs"):
            headers = answers[path].headers
            assert headers["content-type"].startswith("text/html")
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert "default-src 'none'" in headers["content-security-policy"]
        page, policy = answers["/docs"].text, answers["/docs"].headers["content-security-policy"]
        for script in re.findall(r"<script>(.*?)</script>", page, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
        (source,) = re.findall(r'<script src="(https://[^/]+)/', page)
        assert source in policy


def test_keys_come_and_go_without_a_restart(exported: Exported, tmp_path, picture):
    (old, old_line), (new, new_line) = create_key("app"), create_key("app2")
    file = tmp_path / "keys.toml"
    file.write_text(old_line)
    with two_workers(exported.repository, tmp_path, "--api-keys-file", str(file)) as server:

        def statuses(key: str) -> set[int]:
            """Over connections of their own, which lead to both workers."""
            url = f"{server.url}{CLASSIFY}"
            return {
                httpx.post(url, content=picture, headers=bearer(key)).status_code for _ in range(12)
            }

        def replace(text: str) -> None:
            aside = tmp_path / "aside"
            aside.write_text(text)
            aside.replace(file)

        assert (statuses(old), statuses(new)) == ({200}, {401})
        replace(old_line + new_line)
        eventually(lambda: statuses(new) == {200})
        assert statuses(old) == {200}
        replace(new_line)
        eventually(lambda: statuses(old) == {401})
        assert statuses(new) == {200}
        replace("broken")
        eventually(lambda: server.log.read_text().count("go on") == 2)
        assert (statuses(old), statuses(new)) == ({401}, {200})


def test_workers_count_the_requests_of_a_key_together(exported: Exported, tmp_path, picture):
    key, line = create_key("app")
    flags = ("--api-keys", line, "--rate-limit-requests", "0.2")
    with two_workers(exported.repository, tmp_path, *flags) as server:

        def ask(_: int) -> httpx.Response:
            return httpx.post(
                f"{server.url}{CLASSIFY}", content=picture, headers=bearer(key), timeout=30
            )

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(ask, range(20)))
        refused = [answer for answer in answers if answer.status_code == 429]
        # One every five seconds; two workers that look at once may let one more through.
        assert 16 <= len(refused) <= 19
        for answer in refused:
            assert answer.json()["code"] == "rate_limited"
            assert 1 <= int(answer.headers["retry-after"]) <= 10
            assert answer.headers["ratelimit-policy"] == '"requests";q=1;w=5'
            assert re.fullmatch(r'"requests";r=0;t=\d+', answer.headers["ratelimit"])
        good = next(answer for answer in answers if answer.status_code == 200)
        assert good.headers["ratelimit-policy"] == '"requests";q=1;w=5'
        assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_images_are_counted_as_well_as_requests(exported: Exported, tmp_path, picture):
    key, line = create_key("app")
    line = line.replace("}", ", images_per_s = 0.5}")
    with serving(exported.repository, tmp_path, "--api-keys", line) as server:
        files = [("f", ("a.png", picture))] * 8
        with httpx.Client(base_url=server.url, headers=bearer(key)) as client:
            assert client.post(CLASSIFY, files=files).status_code == 200
            refused = client.post(CLASSIFY, content=picture)
            assert refused.status_code == 429
            assert "images" in refused.json()["detail"]
            assert int(refused.headers["retry-after"]) > 5


def test_tokens_of_a_provider(exported: Exported, tmp_path, picture):
    key, line = create_key("app")
    with IdentityProvider() as provider:
        flags = ("--jwt-issuer", provider.issuer, "--jwt-audience", AUDIENCE, "--api-keys", line)
        with serving(exported.repository, tmp_path, *flags) as server, server.client() as client:

            def ask(token: str, path: str = CLASSIFY) -> httpx.Response:
                return client.post(path, content=picture, headers=bearer(token))

            token = provider.token()
            eventually(lambda: ask(token).status_code == 200)
            assert ask(provider.token(scope="other")).status_code == 403
            assert ask(token, LOAD).status_code == 403
            assert ask(provider.token(scope="manage"), LOAD).status_code != 403
            late = ask(provider.token(exp=1))
            assert late.status_code == 401
            assert 'error="invalid_token"' in late.headers["www-authenticate"]
            assert ask(provider.token(aud="other")).status_code == 401
            assert client.post(CLASSIFY, headers={"X-API-Key": token}).status_code == 401
            provider.is_up = False
            assert ask(provider.token(sub="another")).status_code == 200
            assert ask(key).status_code == 200


def test_a_provider_that_is_down_from_the_start_takes_down_only_its_tokens(
    exported: Exported, tmp_path, picture
):
    key, line = create_key("app")
    with IdentityProvider() as provider:
        provider.is_up = False
        flags = ("--jwt-issuer", provider.issuer, "--jwt-audience", AUDIENCE, "--api-keys", line)
        with serving(exported.repository, tmp_path, *flags) as server, server.client() as client:
            answer = client.post(CLASSIFY, content=picture, headers=bearer(provider.token()))
            assert answer.status_code == 503
            assert answer.json()["code"] == "identity_provider_unavailable"
            assert int(answer.headers["retry-after"]) > 0
            assert client.post(CLASSIFY, content=picture, headers=bearer(key)).status_code == 200


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_for_operators(exported: Exported, tmp_path, picture, workers):
    key, line = create_key("app")
    port = free_port()
    flags = ("--admin-port", str(port), "--api-keys", line, "--workers", workers)
    with serving(exported.repository, tmp_path, *flags) as server:
        admin = f"http://127.0.0.1:{port}"
        eventually(lambda: all(ready(admin) for _ in range(12)))
        for _ in range(6):
            answer = httpx.post(
                f"{server.url}{CLASSIFY}", content=picture, headers=bearer(key), timeout=30
            )
            assert answer.status_code == 200

        def counted() -> bool:
            text = httpx.get(f"{admin}/metrics").text
            found = re.findall(
                r'duration_seconds_count\{[^}]*/v1/classify[^}]*status="200"[^}]*\} (\S+)', text
            )
            return sum(map(float, found)) == 6

        eventually(lambda: all(counted() for _ in range(6)))
        assert httpx.get(f"{admin}/healthz").status_code == 200
        for path in ("/", CLASSIFY, "/v1/models", "/docs", LOAD, "/openapi.json"):
            assert httpx.get(f"{admin}{path}").status_code == 404, path
            assert httpx.post(f"{admin}{path}", headers=bearer(key)).status_code == 404, path
        assert httpx.get(f"{server.url}/metrics", headers=bearer(key)).status_code == 404
        assert httpx.get(f"{server.url}/healthz").status_code == 200


TWO = ("--workers", "2")


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--api-keys", "app = 1"), "api_keys: app"),
        (("--api-keys-file", "none.toml"), "none.toml: No such file"),
        (("--api-keys-file", "none.toml", *TWO), "none.toml: No such file"),
        (("--jwt-issuer", "https://id.example.org"), "jwt_audience"),
        (("--rate-limit-requests", "5", *TWO), "rate_limit_requests"),
        (("--cors-origins", "app.example.org/x"), "cors_origins"),
        (("--tls-certificate", "none.pem"), "tls_key"),
        (("--tls-certificate", "none.pem", "--tls-key", "none.pem"), "No such file"),
        (("--tls-certificate", "none.pem", "--tls-key", "none.pem", *TWO), "No such file"),
    ],
)
def test_wrong_settings_end_the_start_with_one_line(exported: Exported, flags, word):
    command = [ADARESNET, "serve", "--models", exported.repository, "--port", "0", *flags]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")
    assert result.returncode in (1, 2)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("adaresnet serve: ")]
    assert word in line
    assert "Traceback" not in result.stderr


def test_errors_tell_nothing_of_the_machine(exported: Exported, tmp_path):
    models = tmp_path / "models"
    broken = models / "broken" / "1"
    broken.mkdir(parents=True)
    (broken / "model.onnx").write_bytes(b"no model")
    (models / "colors").symlink_to(exported.repository / "colors")
    with (
        serving(models, tmp_path, "--default-model", "colors") as server,
        server.client() as client,
    ):
        texts = [
            client.get(path).text
            for path in ("/v1/models", "/v1/models/broken", "/readyz", "/v1/models/none", "/nope")
        ]
        texts.append(client.post(f"{CLASSIFY}?model=broken", content=b"x").text)
        texts.append(client.post(f"{CLASSIFY}?top_k=x", content=b"x").text)
        texts.append(client.post(CLASSIFY, content=b"junk").text)
        texts.append(client.post(CLASSIFY, json={"images": 5}).text)
    for text in texts:
        for leak in (str(tmp_path), str(Path.home()), "site-packages", "Traceback", ".py"):
            assert leak not in text, text
