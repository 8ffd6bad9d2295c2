"""Both clients and the command line, where the server asks for a key and each key has a rate."""

from __future__ import annotations

import hashlib
import os
import subprocess

import pytest

from service.client import RequestRefusedError
from tests.conftest import ADARESNET, draw, serving

KEY = "a-key-of-the-tests"


@pytest.fixture(scope="module")
def guarded(exported, tmp_path_factory):
    """A server that lets 100 images a second of one key in."""
    folder = tmp_path_factory.mktemp("guarded")
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    keys = folder / "keys.toml"
    keys.write_text(f'tests = {{hash = "sha256:{digest}", images_per_s = 100}}')
    with serving(exported.repository, folder, "--api-keys-file", str(keys)) as server:
        yield server


def test_a_key_is_needed_and_enough(connect, guarded, rng):
    red = draw("red", rng)
    for key in (None, "another-key"):
        with connect(guarded.url, api_key=key) as client:
            assert client.ready()
            with pytest.raises(RequestRefusedError, match="ADARESNET_API_KEY") as caught:
                client.classify(red)
            assert caught.value.status == 401
            assert "another-key" not in str(caught.value)
    with connect(guarded.url, api_key=KEY) as client:
        assert client.classify(red).top.label == "red"
        assert client.models()[0].name == "colors"


def test_a_key_that_is_over_its_rate_is_waited_for(connect, guarded, rng):
    blue = draw("blue", rng)
    with connect(guarded.url, api_key=KEY, retries=0) as client:
        results = list(client.classify_many([blue] * 400))
    assert [result.top.label for result in results] == ["blue"] * 400


def test_the_command_line_takes_a_key(guarded, rng, tmp_path):
    path = tmp_path / "green.png"
    draw("green", rng).save(path)
    command = [str(ADARESNET), "classify", str(path), "--url", guarded.url]
    for more, env, status in (
        ((), {}, 1),
        (("--api-key", KEY), {}, 0),
        ((), {"ADARESNET_API_KEY": KEY}, 0),
    ):
        done = subprocess.run(
            [*command, *more], env={**os.environ, **env}, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == status, done.stderr
        assert ("401" in done.stderr) is (status == 1)
