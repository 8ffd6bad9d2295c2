"""Large JPEGs decoded at 1/2, 1/4 or 1/8 of their size: faster, with slightly other pixels.

A JPEG is stored as blocks of frequencies, and leaving the high ones out gives a smaller picture
for less work. What remains is at least twice the network's size, and is then resized as always.
"""

from __future__ import annotations

from PIL import ExifTags, Image

from service.metadata import Resize

_REDUCTIONS = (8, 4, 2)


def reduction_of(picture: tuple[int, int], network: tuple[int, int], resize: Resize) -> int:
    """By how much a JPEG may be reduced: the most that leaves twice the network's size.

    Both sides of the part that is kept stay at least twice as long as the network's, so the filter
    still has pixels to choose from.

    Args:
        picture: Width and height of the whole picture, as stored; it may yet be turned.
        network: Width and height that are wanted.
        resize: Crop rule and filter.

    Returns:
        1, 2, 4 or 8.
    """
    # EXIF may yet swap the sides, so the worse case counts: short side against long one.
    shrink = min(picture) / max(network)
    if resize.rule == "center_crop":
        shrink *= resize.crop
    return next((by for by in _REDUCTIONS if shrink >= 2 * by), 1)


def reduce_decoding(
    image: Image.Image, network: tuple[int, int], resize: Resize
) -> tuple[float, float] | None:
    """Have an opened image decoded reduced, where it is a JPEG large enough.

    Other formats have no reduced decoding, and take no notice.

    Args:
        image: Opened, not yet loaded.
        network: Width and height that are wanted.
        resize: Crop rule and filter.

    Returns:
        Width and height of the picture in reduced pixels, which need not be whole: the image's last
        column and row may lie partly outside the picture. None where the whole image counts.
    """
    width, height = image.size
    by = reduction_of(image.size, network, resize)
    turned = _is_turned(image)
    while turned and (width % by or height % by):
        by //= 2  # turning would bring the partial pixels to other sides
    drafted = by > 1 and image.draft(None, (width // by, height // by)) is not None
    return (width / by, height / by) if drafted and not turned else None


def _is_turned(image: Image.Image) -> bool:
    try:
        return bool(image.getexif().get(ExifTags.Base.Orientation, 1) != 1)
    except Exception:  # a broken block turns nothing
        return False
