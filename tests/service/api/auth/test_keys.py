from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import tomllib

import pytest

from service.api.auth.callers import Callers
from service.api.auth.keys import KeyStore, line_of, new_key, parse_keys
from service.api.auth.rates import RateLimits, SharedRates

CALLERS = Callers(RateLimits(0, 0), SharedRates())
A, B = "ada_" + 43 * "a", "ada_" + 43 * "b"  # the names of tests must not change


def line(name: str, key: str, *scopes: str) -> str:
    return line_of(name, key, list(scopes or ["predict"])) + "\n"


def test_a_line_is_toml_that_leads_back_from_the_key_and_not_to_it():
    text = line("phone-app", A, "predict", "manage")
    (entry,) = tomllib.loads(text).values()
    assert entry["hash"] == f"sha256:{hashlib.sha256(A.encode()).hexdigest()}"
    assert A not in text
    assert len(A) > 40
    assert A != B
    store = KeyStore(CALLERS, text=text, file=None)
    caller = store.find(A.encode())
    assert caller is not None
    assert caller.name == "phone-app"
    assert caller.scopes == {"predict", "manage"}
    assert store.find(B.encode()) is store.find(b"") is store.find(A.encode()[:-1]) is None


def test_two_keys_of_one_name():
    hashes = [f"sha256:{hashlib.sha256(key.encode()).hexdigest()}" for key in (A, B)]
    store = KeyStore(CALLERS, text=f"app = {{hash = {hashes}}}", file=None)
    first = store.find(A.encode())
    assert first is not None
    assert first is store.find(B.encode())
    assert first.scopes == {"predict"}


def test_limits_of_a_key_go_before_those_of_all():
    callers = Callers(RateLimits(5, 0), SharedRates())
    digest = f"sha256:{'0' * 63}"
    keys = parse_keys(
        f'free = {{hash = "{digest}1", requests_per_s = 0}}\n'
        f'usual = {{hash = "{digest}2"}}\n'
        f'images = {{hash = "{digest}3", images_per_s = 7}}\n',
        callers,
    )
    headers = {
        caller.name: dict(caller.meter.headers())[b"ratelimit-policy"] if caller.meter else None
        for caller in keys.values()
    }
    assert headers == {
        "free": None,
        "usual": b'"requests";q=5;w=1',
        "images": b'"requests";q=5;w=1, "images";q=7;w=1;qu="images"',
    }


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("app = ", "no TOML"),
        (f'app = "{A}"', "app"),
        (f'app = {{hash = "{A}"}}', "app.hash"),
        ('app = {hash = "sha256:12"}', "app.hash"),
        ('app = {hash = "md5:' + 64 * "0" + '"}', "app.hash"),
        ("app = {hash = []}", "app.hash"),
        ("app = {}", "app.hash"),
        ('app = {hash = "sha256:' + 64 * "0" + '", scopes = ["admin"]}', "app.scopes"),
        ('app = {hash = "sha256:' + 64 * "0" + '", scopes = []}', "app.scopes"),
        ('app = {hash = "sha256:' + 64 * "0" + '", scope = "predict"}', "app.scope"),
        ('app = {hash = "sha256:' + 64 * "0" + '", requests_per_s = -1}', "app.requests_per_s"),
        ('app = {hash = "sha256:' + 64 * "0" + '", requests_per_s = inf}', "app.requests_per_s"),
        ('"a b" = {hash = "sha256:' + 64 * "0" + '"}', "name"),
        (line("app", A) + line("app", B), "no TOML"),
        (line("app", A) + line("other", A), "same hash"),
    ],
)
def test_a_wrong_entry_is_named_and_its_content_is_not_told(text, word):
    with pytest.raises(ValueError, match=r"^api_keys: ") as caught:
        KeyStore(CALLERS, text=text, file=None)
    assert word in str(caught.value)
    assert A not in str(caught.value)


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"api_keys_file .*keys\.toml: No such file"):
        KeyStore(CALLERS, text=None, file=tmp_path / "keys.toml")
    (tmp_path / "keys.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"api_keys_file .*keys\.toml: "):
        KeyStore(CALLERS, text=None, file=tmp_path / "keys.toml")


def test_a_file_is_read_again_when_it_changes_and_stays_known_when_it_breaks(tmp_path, caplog):
    file = tmp_path / "keys.toml"
    file.write_text(line("a", A))
    store = KeyStore(CALLERS, text=None, file=file)

    async def until(check) -> None:
        async with asyncio.timeout(20):
            while not check():  # noqa: ASYNC110, what is waited for is another task's doing
                await asyncio.sleep(0.05)

    def replace(text: str) -> None:
        aside = tmp_path / "aside"
        aside.write_text(text)
        aside.replace(file)

    async def scenario() -> None:
        watching = asyncio.create_task(store.watch())
        assert store.find(A.encode())
        replace(line("a", A) + line("b", B))
        await until(lambda: store.find(B.encode()))
        assert store.find(A.encode())
        replace(line("b", B))
        await until(lambda: not store.find(A.encode()))
        replace("broken = ")
        await until(lambda: "go on" in caplog.text)
        file.unlink()
        await until(lambda: "No such file" in caplog.text)
        assert store.find(B.encode())
        replace("")
        await until(lambda: "nobody may call" in caplog.text)
        assert not store.find(B.encode())
        watching.cancel()

    asyncio.run(scenario())


def test_every_key_is_compared_in_constant_time(monkeypatch):
    """Not with ==, and not only up to the first that fits."""
    compared = []
    compare = hmac.compare_digest

    def note(ours: bytes, theirs: bytes) -> bool:
        compared.append(ours)
        return compare(ours, theirs)

    store = KeyStore(CALLERS, text=line("a", A) + line("b", B) + line("c", new_key()), file=None)
    monkeypatch.setattr(hmac, "compare_digest", note)
    assert store.find(A.encode())
    assert len(compared) == 3
    assert not store.find(os.urandom(9))
    assert len(compared) == 6
    # What was right before is found by its hash.
    assert store.find(A.encode())
    assert len(compared) == 6
