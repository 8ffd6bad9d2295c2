from __future__ import annotations

import pytest
import torch

from training.data.mixing import mix


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


X = torch.rand(64, 3, 10, 14, generator=torch.Generator().manual_seed(1))


def test_off_changes_nothing():
    generator = seeded()
    before = generator.get_state()
    x, partner, weight = mix(X, 0, 0, generator)
    assert x is X
    assert partner.tolist() == list(range(64))
    assert (weight == 1).all()
    assert torch.equal(generator.get_state(), before)


def test_mixup_is_a_weighted_mean_of_pairs():
    x, partner, weight = mix(X, 0.4, 0, seeded())
    assert sorted(partner.tolist()) == list(range(64))
    assert ((weight >= 0) & (weight <= 1)).all()
    assert len(set(weight.tolist())) > 50
    own = weight.view(-1, 1, 1, 1)
    torch.testing.assert_close(x, own * X + (1 - own) * X[partner])


def test_cutmix_pastes_one_box_and_weighs_by_its_true_area():
    x, partner, weight = mix(X, 0, 1.0, seeded())
    for image, own, other, share in zip(x, X, X[partner], weight.tolist(), strict=True):
        pasted = (image != own).any(dim=0)
        assert torch.equal(image, torch.where(pasted, other, own))
        rows, columns = pasted.any(dim=1), pasted.any(dim=0)
        assert torch.equal(pasted, rows.unsqueeze(1) & columns)
        assert rows.diff().sum() <= 2
        if not torch.equal(own, other):
            assert share == pytest.approx(1 - pasted.float().mean().item(), abs=1e-6)
    assert weight.std() > 0.1


def test_with_both_on_a_coin_decides_for_each_batch():
    kinds = set()
    for seed in range(20):
        x, partner, _ = mix(X, 1.0, 1.0, seeded(seed))
        kinds.add(bool(((x == X) | (x == X[partner])).all()))
    assert kinds == {False, True}


def test_the_same_generator_gives_the_same_mix():
    for alphas in ((0.2, 0.0), (0.0, 1.0), (0.2, 1.0)):
        ours, theirs = mix(X, *alphas, seeded(3)), mix(X, *alphas, seeded(3))
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert ours[0].dtype == torch.float32
