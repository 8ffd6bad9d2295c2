from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training.data.augment import (
    channel_statistics,
    cut_out,
    mirrored,
    random_resized_crop,
    shift_and_flip,
    to_channels,
)
from training.data.splits import Split

NONE = torch.Generator()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(9))


def test_luma_is_pillows():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    ours = to_channels(torch.from_numpy(pixels)[None], grey=True)[0, 0] * 255
    theirs = np.asarray(Image.fromarray(pixels).convert("L"), np.float32)
    assert np.abs(ours.numpy() - theirs).max() < 1


def test_channel_statistics():
    pixels = noise(10, 4, 4, 3)
    mean, std = channel_statistics(pixels, grey=False)
    flat = pixels.double().reshape(-1, 3) / 255
    assert mean == pytest.approx(flat.mean(dim=0).tolist(), abs=1e-6)
    assert std == pytest.approx(flat.std(dim=0, correction=0).tolist(), abs=1e-5)
    chunks = channel_statistics(iter(torch.split(pixels, 3)), grey=False)
    assert chunks[0] == pytest.approx(mean, rel=1e-12)
    split = Split(pixels, torch.zeros(10, dtype=torch.int64))
    assert channel_statistics(split, grey=False) == (mean, std)
    assert len(channel_statistics(split, grey=True)[0]) == 1


def test_cutout_blanks_one_square_of_each_image():
    pixels = torch.zeros(200, 9, 9, 3, dtype=torch.uint8)
    blanked = cut_out(pixels, 4, seeded()) == 128
    assert (blanked == blanked[..., :1]).all()
    sizes = set()
    for picture in blanked[..., 0]:
        rows, columns = picture.any(dim=1), picture.any(dim=0)
        assert torch.equal(picture, rows.unsqueeze(1) & columns)
        assert rows.diff().sum() <= 2
        sizes.add((int(rows.sum()), int(columns.sum())))
    assert max(sizes) == (4, 4)
    assert min(sizes)[0] >= 2
    assert cut_out(pixels, 0, NONE) is pixels


def test_views_are_shifted_and_mirrored_copies_with_reflected_edges():
    pixels = noise(20, 6, 8, 3)
    flips = torch.arange(20) % 2 == 0
    views = shift_and_flip(pixels, 2, flips, seeded())
    padded = np.pad(pixels.numpy(), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    seen = set()
    for picture, view, flip in zip(padded, views.numpy(), flips.tolist(), strict=True):
        matches = [
            (row, column)
            for row in range(5)
            for column in range(5)
            if (picture[row : row + 6, column : column + 8][:, :: -1 if flip else 1] == view).all()
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 7
    assert shift_and_flip(pixels, 0, None, NONE) is pixels
    assert torch.equal(shift_and_flip(pixels, 0, ~flips & flips, NONE), pixels)
    assert torch.equal(shift_and_flip(pixels, 0, flips | ~flips, NONE), pixels.flip(2))


@given(seed=st.integers(0, 2**63), epoch=st.integers(0, 1000))
def test_alternating_flips_need_no_state(seed, epoch):
    indices = torch.randperm(4000, generator=seeded())
    first = mirrored(indices, epoch, "alternating", seed, NONE)
    second = mirrored(indices, epoch + 1, "alternating", seed, NONE)
    third = mirrored(indices[:7], epoch + 2, "alternating", seed, NONE)
    assert first is not None
    assert second is not None
    assert third is not None
    assert torch.equal(first, ~second)
    assert torch.equal(first[:7], third)
    assert 0.45 < first.float().mean() < 0.55
    ordered = first[indices.argsort()]
    assert 0.45 < (ordered[1:] == ordered[:-1]).float().mean() < 0.55  # neighbours are independent


def test_random_flips_come_from_the_generator_and_seeds_differ():
    indices = torch.arange(1000)
    assert mirrored(indices, 0, "none", 0, NONE) is None
    flips = mirrored(indices, 0, "random", 0, seeded(1))
    again = mirrored(indices, 5, "random", 9, seeded(1))
    assert flips is not None
    assert again is not None
    assert torch.equal(flips, again)
    assert 0.4 < flips.float().mean() < 0.6
    coins = [mirrored(indices, 0, "alternating", seed, NONE) for seed in (0, 1)]
    assert coins[0] is not None
    assert coins[1] is not None
    assert 0.4 < (coins[0] == coins[1]).float().mean() < 0.6


def test_a_crop_of_everything_is_the_picture():
    pixels = noise(4, 12, 12, 3)
    assert torch.equal(random_resized_crop(pixels, (1, 1), (1, 1), seeded()), pixels)


def test_crops_are_enlarged_parts_of_the_asked_area_and_shape():
    # Red tells the column, green the row: first and last samples give the part away.
    height, width = 48, 64
    pixels = torch.zeros(300, height, width, 3, dtype=torch.uint8)
    pixels[..., 0] = (torch.arange(width) * 4).to(torch.uint8)
    pixels[..., 1] = (torch.arange(height) * 4).to(torch.uint8).unsqueeze(1)
    parts = random_resized_crop(pixels, (0.2, 0.5), (0.75, 4 / 3), seeded()).int()
    assert parts.shape == pixels.shape
    # Between samples well inside, so that no border is repeated.
    wide = (parts[:, 24, 48, 0] - parts[:, 24, 16, 0]) / 4 * 2
    high = (parts[:, 36, 32, 1] - parts[:, 12, 32, 1]) / 4 * 2
    area = wide * high / (height * width)
    assert area.min() > 0.17
    assert area.max() < 0.55
    assert area.std() > 0.05
    assert (wide / high).min() > 0.68
    assert (wide / high).max() < 1.48
    middles = parts[:, 24, 32, 0].float() / 4
    assert middles.std() > 3
    again = random_resized_crop(pixels, (0.2, 0.5), (0.75, 4 / 3), seeded())
    assert torch.equal(again.int(), parts)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_views_on_a_gpu_are_those_on_the_cpu():
    pixels = noise(16, 12, 12, 3)
    flips = mirrored(torch.arange(16), 0, "random", 0, seeded())
    here = shift_and_flip(pixels, 2, flips, seeded())
    there = shift_and_flip(pixels.cuda(), 2, flips, seeded())
    assert there.is_cuda
    assert torch.equal(here, there.cpu())
    crop = random_resized_crop(pixels.cuda(), (0.5, 1.0), (0.8, 1.2), seeded()).cpu().int()
    wanted = random_resized_crop(pixels, (0.5, 1.0), (0.8, 1.2), seeded()).int()
    assert (crop - wanted).abs().max() <= 1
