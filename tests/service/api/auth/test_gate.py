from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from service.api.auth.build import build_gate, find_risks
from service.api.auth.gate import AdminGate, Gate
from service.api.auth.keys import line_of, new_key
from service.api.refusals import Refusal
from service.settings import Settings
from tests.identity_provider import AUDIENCE, IdentityProvider

KEYS = {
    "predict": new_key(),
    "manage": new_key(),
    "both": new_key(),
}
TEXT = "\n".join(
    [
        line_of("predict", KEYS["predict"], ["predict"]),
        line_of("manage", KEYS["manage"], ["manage"]),
        line_of("both", KEYS["both"], ["predict", "manage"]),
    ]
)


def scope(method: str, path: str, *headers: tuple[str, str]) -> dict[str, Any]:
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    return {"method": method, "path": path, "headers": encoded, "state": {}}


def status(gate: Gate, *request: Any) -> int:
    try:
        asyncio.run(gate.admit(scope(*request)))
    except (Refusal, HTTPException) as refusal:
        return refusal.status if isinstance(refusal, Refusal) else refusal.status_code
    return 200


@pytest.fixture
def gate() -> Gate:
    return build_gate(Settings(api_keys=TEXT), None)


LOAD = "/v2/repository/models/cifar10/load"
WAYS = (("authorization", "Bearer "), ("authorization", "bearer "), ("x-api-key", ""))


@pytest.mark.parametrize(
    ("method", "path", "needs"),
    [
        ("GET", "/healthz", "nothing"),
        ("HEAD", "/readyz", "nothing"),
        ("GET", "/v2/health/live", "nothing"),
        ("GET", "/v2/health/ready", "nothing"),
        ("GET", "/", "nothing"),
        ("GET", "/metrics", "any"),
        ("GET", "/docs", "any"),
        ("GET", "/openapi.json", "any"),
        ("GET", "/v1/models", "any"),
        ("GET", "/v2/models/cifar10/ready", "any"),
        ("POST", "/v2/repository/index", "any"),
        ("POST", "/v1/classify", "predict"),
        ("POST", "/v1/models/cifar10:predict", "predict"),
        ("POST", "/v2/models/cifar10/infer", "predict"),
        ("DELETE", "/v1/models", "predict"),
        ("POST", LOAD, "manage"),
        ("GET", LOAD, "manage"),
        ("POST", "/v2/repository/models/cifar10/unload", "manage"),
        ("POST", "/v2/repository", "manage"),
        ("POST", "/v2/repository/index/", "manage"),
        # Other spellings than the router's lead nowhere, and are not open either.
        ("GET", "//healthz", "any"),
        ("GET", "/healthz/", "any"),
        ("GET", "/healthz/../v1/models", "any"),
        ("GET", "/HEALTHZ", "any"),
        ("POST", "/healthz", "predict"),
        ("POST", "//v1/classify", "predict"),
        ("POST", "/V1/classify", "predict"),
        ("POST", "", "predict"),
        ("OPTIONS", "/v1/classify", "any"),
    ],
)
def test_what_needs_which_key(gate, method, path, needs):
    without = 200 if needs == "nothing" else 401
    assert status(gate, method, path) == without
    assert status(gate, method, path, ("x-api-key", "wrong")) == without
    for name, key in KEYS.items():
        allowed = needs in ("nothing", "any", name) or name == "both"
        for header, before in WAYS:
            found = status(gate, method, path, (header, f"{before}{key}"))
            assert found == (200 if allowed else 403), name


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", ""),
        ("authorization", "Bearer"),
        ("authorization", "Bearer "),
        ("authorization", "Bearer wrong"),
        ("authorization", f"Basic {KEYS['both']}"),
        ("authorization", KEYS["both"]),
        ("x-api-key", ""),
        ("x-api-key", f"Bearer {KEYS['both']}"),
        ("cookie", f"key={KEYS['both']}"),
        ("authorization", f"Bearer {KEYS['both']}x"),
        ("authorization", "Bearer a.b.c"),
    ],
)
def test_what_is_no_key_is_401_and_says_what_to_send(gate, header):
    with pytest.raises(Refusal) as caught:
        asyncio.run(gate.admit(scope("POST", "/v1/classify", header)))
    refusal = caught.value
    assert refusal.status == 401
    assert refusal.headers["WWW-Authenticate"].startswith('Bearer realm="adaresnet"')
    assert "X-API-Key" in refusal.hint
    assert KEYS["both"] not in refusal.detail + refusal.hint


def test_a_gateway_may_use_authorization_for_itself(gate):
    headers = ("authorization", "Basic Zm9v"), ("x-api-key", KEYS["predict"])
    assert status(gate, "POST", "/v1/classify", *headers) == 200


def test_a_gateway_may_have_tokens_of_its_own(gate):
    own, key = ("authorization", "Bearer a.b.c"), ("x-api-key", KEYS["predict"])
    assert status(gate, "POST", "/v1/classify", own, key) == 200
    assert status(gate, "POST", LOAD, own, key) == 403
    assert status(gate, "POST", "/v1/classify", own, ("x-api-key", "wrong")) == 401
    # A good key in Authorization goes before another.
    bearer = ("authorization", f"Bearer {KEYS['manage']}")
    assert status(gate, "POST", "/v1/classify", bearer, key) == 403


def test_who_is_asked_for_tokens_has_none_that_mean_somebody_else():
    with IdentityProvider() as provider:
        gate = build_gate(guarded_by(provider, api_keys=TEXT), None)
        key = ("x-api-key", KEYS["predict"])
        for token in ("a.b.c", "wrong", provider.token(exp=1)):
            bearer = ("authorization", f"Bearer {token}")
            assert status(gate, "POST", "/v1/classify", bearer, key) == 401
        bearer = ("authorization", f"Bearer {KEYS['both']}")
        assert status(gate, "POST", LOAD, bearer, key) == 200
        assert status(gate, "POST", "/v1/classify", ("authorization", "Bearer"), key) == 200


def guarded_by(provider: IdentityProvider, **changes: Any) -> Settings:
    return Settings(jwt_issuer=provider.issuer, jwt_audience=AUDIENCE, **changes)


def test_a_token_without_a_scope_may_not_even_read():
    with IdentityProvider() as provider:
        gate = build_gate(guarded_by(provider), None)
        for scopes, allowed in ((None, False), ("openid other", False), ("manage", True)):
            bearer = ("authorization", f"Bearer {provider.token(scope=scopes)}")
            for request in (("GET", "/v1/models"), ("POST", "/v2/repository/index")):
                assert status(gate, *request, bearer) == (200 if allowed else 403), scopes
            assert status(gate, "GET", "/healthz", bearer) == 200
        bearer = ("authorization", f"Bearer {provider.token(scope=None)}")
        with pytest.raises(Refusal, match="lacks the scope 'predict' or 'manage'"):
            asyncio.run(gate.admit(scope("GET", "/v1/models", bearer)))


def test_who_lacks_a_scope_is_told_which(gate):
    with pytest.raises(Refusal) as caught:
        asyncio.run(gate.admit(scope("POST", LOAD, ("x-api-key", KEYS["predict"]))))
    assert 'scope="manage"' in caught.value.headers["WWW-Authenticate"]
    assert "insufficient_scope" in caught.value.headers["WWW-Authenticate"]


def test_without_keys_all_is_open_but_management():
    gate = build_gate(Settings(), None)
    for method, path in (("POST", "/v1/classify"), ("GET", "/metrics"), ("GET", "/healthz")):
        assert status(gate, method, path) == 200
    with pytest.raises(Refusal) as caught:
        asyncio.run(gate.admit(scope("POST", LOAD, ("x-api-key", KEYS["both"]))))
    assert caught.value.status == 403
    assert "api_keys_file" in caught.value.hint


def test_an_empty_list_of_keys_opens_nothing():
    gate = build_gate(Settings(api_keys=""), None)
    assert status(gate, "POST", "/v1/classify") == 401


def test_the_operators_port_has_three_paths():
    for path in ("/metrics", "/healthz", "/readyz"):
        assert status(AdminGate(), "GET", path) == 200
    for path in ("/", "/v1/classify", "/docs", LOAD, "/metrics/"):
        assert status(AdminGate(), "GET", path) == 404
    gate = build_gate(Settings(admin_port=1), None)
    assert status(gate, "GET", "/metrics") == 404
    assert status(gate, "GET", "/healthz") == 200


def test_a_rate_is_429_and_says_when(gate):
    gate = build_gate(Settings(api_keys=TEXT, rate_limit_requests=2), None)
    key = ("x-api-key", KEYS["predict"])
    assert [status(gate, "GET", "/v1/models", key) for _ in range(2)] == [200, 200]
    with pytest.raises(Refusal) as caught:
        asyncio.run(gate.admit(scope("GET", "/v1/models", key)))
    refusal = caught.value
    assert (refusal.status, refusal.code) == (429, "rate_limited")
    assert refusal.headers["Retry-After"] == "1"
    assert refusal.headers["ratelimit-policy"] == '"requests";q=2;w=1'
    assert refusal.headers["ratelimit"].startswith('"requests";r=0;t=')
    # Others have their own.
    assert status(gate, "GET", "/v1/models", ("x-api-key", KEYS["both"])) == 200
    # Probes cost nothing.
    assert status(gate, "GET", "/healthz", key) == 200


def test_what_is_forbidden_costs_as_well_and_says_what_is_left():
    gate = build_gate(Settings(api_keys=TEXT, rate_limit_requests=2), None)
    key = ("x-api-key", KEYS["predict"])
    found = []
    for _ in range(3):
        with pytest.raises(Refusal) as caught:
            asyncio.run(gate.admit(scope("POST", LOAD, key)))
        left = caught.value.headers["ratelimit"].partition(";t=")[0]
        found.append((caught.value.status, left))
        assert caught.value.headers["ratelimit-policy"] == '"requests";q=2;w=1'
    assert found == [(403, '"requests";r=1'), (403, '"requests";r=0'), (429, '"requests";r=0')]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"rate_limit_requests": 1}, "rate_limit_requests"),
        ({"rate_limit_images": 1}, "rate_limit_images"),
        ({"jwt_audience": "x"}, "jwt_issuer"),
        ({"jwt_jwks_url": "https://x"}, "jwt_issuer"),
        ({"jwt_issuer": "https://x"}, "jwt_audience"),
        ({"jwt_issuer": "x", "jwt_audience": "x"}, "jwt_issuer"),
        ({"jwt_issuer": "https://x", "jwt_audience": "x", "jwt_algorithms": "HS256"}, "HS256"),
        ({"jwt_issuer": "https://x", "jwt_audience": "x", "jwt_algorithms": "none"}, "none"),
        ({"jwt_issuer": "https://x", "jwt_audience": "x", "jwt_jwks_url": "/keys"}, "jwks"),
    ],
)
def test_settings_that_do_nothing_or_harm_are_refused(settings, word):
    with pytest.raises(ValueError, match=word):
        build_gate(Settings(**settings), None)


@pytest.mark.parametrize(
    ("url", "safe"),
    [("http://id.example.org", False), ("https://id.example.org", True), ("http://[::1]", True)],
)
def test_an_issuer_without_tls_is_let_pass_and_named(url, safe):
    settings = Settings(jwt_issuer=url, jwt_audience="x")
    build_gate(settings, None)
    assert [line.partition(" ")[0] for line in find_risks(settings)] == ["jwt_issuer"][safe:]
