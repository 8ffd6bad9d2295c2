"""Tokens of a real provider, fetched over HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from service.api.auth import key_set
from service.api.auth.callers import Caller, Callers
from service.api.auth.rates import RateLimits, SharedRates
from service.api.auth.tokens import ALGORITHMS, TokenOptions, TokenVerifier
from service.api.refusals import Refusal
from tests.identity_provider import AUDIENCE, IdentityProvider


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider() as running:
        yield running


def verifier(provider: IdentityProvider, **changes: Any) -> TokenVerifier:
    options: dict[str, Any] = {
        "issuer": provider.issuer,
        "audience": AUDIENCE,
        "jwks_url": None,
        "algorithms": ("RS256", "ES256"),
        "leeway_s": 5,
        "words": {"predict": "predict", "manage": "manage"},
    }
    callers = Callers(RateLimits(), SharedRates())
    return TokenVerifier(TokenOptions(**{**options, **changes}), callers)


def check(of: TokenVerifier, token: str) -> Caller:
    return asyncio.run(of.verify(token.encode()))


def refused(of: TokenVerifier, token: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        check(of, token)
    return caught.value


def test_tokens_by_rsa_and_by_elliptic_curves_are_good(provider):
    provider.add_ec("ec-1")
    of = verifier(provider)
    for key_id in ("rsa-1", "ec-1"):
        caller = check(of, provider.token(key_id))
        assert caller.name == "somebody"
        assert caller.scopes == {"predict"}
    assert provider.fetches == 1


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "manage predict"}, {"manage", "predict"}),
        ({"scope": None, "scp": ["manage"]}, {"manage"}),
        ({"scope": None, "scp": "predict other"}, {"predict"}),
        ({"scope": None, "roles": ["predict"]}, {"predict"}),
        ({"scope": "other", "roles": ["manage"]}, {"manage"}),
        ({"scope": None}, set()),
        ({"scope": 7, "scp": {"predict": 1}, "roles": None}, set()),
    ],
)
def test_scopes_come_from_three_claims(provider, claims, scopes):
    assert check(verifier(provider), provider.token(**claims)).scopes == scopes


def test_a_provider_may_have_other_words_for_scopes(provider):
    of = verifier(provider, words={"predict": "api://x/Images.Read", "manage": "admin"})
    assert check(of, provider.token(scope="api://x/Images.Read")).scopes == {"predict"}
    assert check(of, provider.token(scope="predict")).scopes == set()


now = time.time


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"exp": now() - 3600}, "expired"),
        ({"nbf": now() + 86_400}, "not valid yet"),
        ({"aud": "another"}, "audience"),
        ({"aud": ["another", "third"]}, "audience"),
        ({"iss": "https://evil.example"}, "issuer"),
        ({"exp": None}, "lacks"),
        ({"aud": None}, "lacks"),
        ({"iss": None}, "lacks"),
        ({"exp": "soon"}, "not valid"),
    ],
)
def test_claims_that_are_wrong(provider, claims, words):
    refusal = refused(verifier(provider), provider.token(**claims))
    assert refusal.status == 401
    assert words in refusal.detail
    assert 'error="invalid_token"' in refusal.headers["WWW-Authenticate"]


def test_clocks_may_differ_a_little(provider):
    of = verifier(provider, leeway_s=60)
    assert check(of, provider.token(exp=now() - 30, nbf=now() + 30))
    assert refused(of, provider.token(exp=now() - 90)).status == 401


def part(values: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).rstrip(b"=").decode()


def unsigned(provider: IdentityProvider) -> str:
    return f"{part({'alg': 'none', 'kid': 'rsa-1'})}.{part(provider.claims())}."


def signed_with_the_public_key(provider: IdentityProvider) -> str:
    """The public key is no secret; a verifier that lets the token choose would take it for one."""
    import hashlib
    import hmac

    key = provider.keys["rsa-1"][1].public_key()
    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    text = f"{part({'alg': 'HS256', 'kid': 'rsa-1'})}.{part(provider.claims())}"
    digest = hmac.digest(pem, text.encode(), hashlib.sha256)
    return f"{text}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def altered(provider: IdentityProvider) -> str:
    head, _, signature = provider.token().split(".")
    return f"{head}.{part(provider.claims(scope='manage'))}.{signature}"


def by_another_key(provider: IdentityProvider) -> str:
    with_own_key = IdentityProvider()
    token = jwt.encode(
        provider.claims(), with_own_key.keys["rsa-1"][1], "RS256", headers={"kid": "rsa-1"}
    )
    with_own_key._server.server_close()
    return token


def of_another_algorithm(provider: IdentityProvider) -> str:
    key = provider.keys["rsa-1"][1]
    return jwt.encode(provider.claims(), key, "RS512", headers={"kid": "rsa-1"})


FORGED: dict[str, Callable[[IdentityProvider], str]] = {
    "unsigned": unsigned,
    "signed with the public key": signed_with_the_public_key,
    "altered": altered,
    "by another key": by_another_key,
    "of another algorithm": of_another_algorithm,
    "a signature cut short": lambda provider: provider.token()[:-8],
    "no token": lambda _: "a.b.c",
    "huge": lambda provider: provider.token(padding="x" * 20_000),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
def test_a_forged_token_is_401(provider, forge):
    refusal = refused(verifier(provider), forge(provider))
    assert refusal.status == 401
    assert "Traceback" not in refusal.detail


def test_even_all_algorithms_are_without_shared_secrets(provider):
    assert not [name for name in ALGORITHMS if name.startswith("HS") or name == "none"]
    of = verifier(provider, algorithms=ALGORITHMS)
    assert refused(of, unsigned(provider)).status == 401
    assert refused(of, signed_with_the_public_key(provider)).status == 401
    # The key says that it is for RS256.
    assert refused(of, of_another_algorithm(provider)).status == 401


def test_a_new_key_is_fetched_when_it_turns_up_and_not_for_everything(provider, monkeypatch):
    of = verifier(provider)

    async def scenario() -> None:
        await of.verify(provider.token().encode())
        provider.add_ec("ec-2")
        token = provider.token("ec-2").encode()
        with pytest.raises(Refusal):  # the last fetch is only a moment ago
            await of.verify(token)
        assert provider.fetches == 1
        monkeypatch.setattr(key_set, "_RETRY_S", 0.0)
        assert await of.verify(token)
        assert provider.fetches == 2
        monkeypatch.undo()
        for number in range(20):
            made_up = provider.token().replace(
                provider.token().split(".")[0], part({"alg": "RS256", "kid": f"made up {number}"})
            )
            with pytest.raises(Refusal):
                await of.verify(made_up.encode())
        assert provider.fetches == 2

    asyncio.run(scenario())


def test_all_who_ask_meanwhile_wait_for_one_fetch(provider):
    of = verifier(provider)
    tokens = [provider.token(sub=f"user-{number}").encode() for number in range(20)]

    async def scenario() -> list[Caller]:
        return await asyncio.gather(*map(of.verify, tokens))

    assert len({caller.name for caller in asyncio.run(scenario())}) == 20
    assert provider.fetches == 1


def test_a_provider_that_is_down_leaves_the_keys_that_there_are(provider, monkeypatch):
    monkeypatch.setattr(key_set, "_RETRY_S", 0.0)
    of = verifier(provider)

    async def scenario() -> None:
        provider.is_up = False
        with pytest.raises(Refusal) as caught:
            await of.verify(provider.token().encode())
        assert caught.value.status == 503
        assert caught.value.code == "identity_provider_unavailable"
        assert int(caught.value.headers["Retry-After"]) > 0
        provider.is_up = True
        assert await of.verify(provider.token().encode())
        provider.is_up = False
        assert await of.verify(provider.token(sub="new").encode())
        provider.add_ec("ec-9")
        with pytest.raises(Refusal) as caught:
            await of.verify(provider.token("ec-9").encode())
        assert caught.value.status == 401

    asyncio.run(scenario())


def test_a_provider_that_hangs_keeps_those_who_ask_for_a_moment_only(provider, monkeypatch):
    monkeypatch.setattr(key_set, "_RETRY_S", 0.0)
    of = verifier(provider)

    async def is_503(token: str) -> None:
        monkeypatch.setattr(key_set, "_WAIT_S", 0.01)
        with pytest.raises(Refusal) as caught:
            await of.verify(token.encode())
        assert caught.value.code == "identity_provider_unavailable"
        monkeypatch.setattr(key_set, "_WAIT_S", 60.0)

    async def scenario() -> None:
        provider.may_answer.clear()
        await is_503(provider.token())
        provider.may_answer.set()
        assert await of.verify(provider.token().encode())
        provider.add_ec("ec-1")
        provider.may_answer.clear()
        await is_503(provider.token("ec-1"))  # for all that is known here its key may be on the way
        assert await of.verify(provider.token(sub="another").encode())
        provider.may_answer.set()
        assert await of.verify(provider.token("ec-1").encode())

    asyncio.run(scenario())


def test_a_key_that_the_provider_has_withdrawn_is_forgotten(provider, monkeypatch):
    monkeypatch.setattr(key_set, "_RETRY_S", 0.0)
    of = verifier(provider)
    provider.add_rsa("rsa-2")
    token = provider.token("rsa-2").encode()

    async def scenario() -> None:
        assert await of.verify(token)
        old = provider.token().encode()
        assert await of.verify(old)
        del provider.keys["rsa-1"]
        provider.add_rsa("rsa-3")
        assert await of.verify(provider.token("rsa-3").encode())
        with pytest.raises(Refusal):
            await of.verify(old)

    asyncio.run(scenario())


def test_a_token_that_was_good_is_not_good_for_ever(provider, monkeypatch):
    of = verifier(provider, leeway_s=0)
    token = provider.token(exp=int(now()) + 2)
    assert check(of, token)
    assert check(of, token)  # by its hash
    later = now() + 3
    monkeypatch.setattr("service.api.auth.tokens.time.time", lambda: later)
    time.sleep(2.1)  # the library has a clock of its own
    assert "expired" in refused(of, token).detail


def test_discovery_of_another_issuer_is_not_believed(provider, caplog):
    provider.says_issuer = "https://evil.example"
    assert refused(verifier(provider), provider.token()).status == 503
    assert "evil.example" in caplog.text
    # Where the keys' address is given, there is nothing to discover.
    of = verifier(provider, jwks_url=f"{provider.issuer}/keys")
    assert check(of, provider.token())


def test_a_subject_can_not_forge_a_line_of_the_log(provider):
    caller = check(verifier(provider), provider.token(sub="a\nb c\x1b[0m" + 100 * "x"))
    assert caller.name.startswith("a?b?c??0mxxx")
    assert len(caller.name) == 64
