from __future__ import annotations

import pytest

from service.picture_files import MAX_PICTURES, find_pictures


def test_pictures_of_a_folder_are_evenly_taken_and_hidden_files_left(tmp_path):
    for number in range(2 * MAX_PICTURES):
        folder = tmp_path / f"{number % 4}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number:04}.png").touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "a").touch()
    found = find_pictures(tmp_path)
    assert len(found) == MAX_PICTURES
    assert {path.parent.name for path in found} == {"0", "1", "2", "3"}
    assert find_pictures(found[0]) == [found[0]]


def test_a_folder_without_any(tmp_path):
    with pytest.raises(ValueError, match="there are none"):
        find_pictures(tmp_path)
