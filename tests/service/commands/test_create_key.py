from __future__ import annotations

import hashlib
import tomllib

import pytest

from service.commands.create_key import create_key


def test_a_key_is_shown_once_and_its_line_has_the_hash_only(capsys):
    keys = set()
    for _ in range(3):
        assert create_key(["--name", "app", "--scope", "predict, manage,predict"]) == 0
        out, err = capsys.readouterr()
        key = err.rpartition(" ")[2].strip()
        (entry,) = tomllib.loads(out).values()
        assert entry == {
            "hash": f"sha256:{hashlib.sha256(key.encode()).hexdigest()}",
            "scopes": ["predict", "manage"],
        }
        assert key not in out
        keys.add(key)
    assert len(keys) == 3


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--name", ""],
        ["--name", "a b"],
        ["--name", "a.b"],
        ["--name", "x" * 65],
        ["--name", "a", "--scope", "admin"],
        ["--name", "a", "--scope", ""],
    ],
)
def test_wrong_names_and_scopes(args, capsys):
    with pytest.raises(SystemExit) as caught:
        create_key(args)
    assert caught.value.code == 2
    assert "create-key: error" in capsys.readouterr().err
