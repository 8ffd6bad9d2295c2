from __future__ import annotations

from PIL import Image

from service.tuning.pictures import draw_pictures


def test_drawn_pictures_are_always_the_same_and_differ(tmp_path):
    paths = draw_pictures(tmp_path, 24, 32)
    contents = [path.read_bytes() for path in paths]
    assert len(set(contents)) == len(paths)
    with Image.open(paths[0]) as picture:
        assert (picture.format, picture.size) == ("JPEG", (32, 24))
    assert contents == [path.read_bytes() for path in draw_pictures(tmp_path, 24, 32)]
