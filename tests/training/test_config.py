from __future__ import annotations

import itertools
import tomllib
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from training.commands.train import train
from training.config import RECIPES, TrainConfig, load_config, recipe_path
from training.networks.network import NetworkOptions
from training.networks.presets import PRESETS
from training.networks.registry import NETWORKS, build_network, find_network
from training.networks.shortcut import Scale

SHIPPED = sorted(path.stem for path in RECIPES.glob("*.toml"))


def load(*flags: str, recipe: str | None = None) -> TrainConfig:
    return load_config(["--data", "x", *flags], recipe, program="adaresnet train")


def written(folder: Path, text: str) -> str:
    path = folder / "recipe.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("recipe", SHIPPED)
def test_every_recipe_loads_and_says_what_it_sets(recipe):
    config = load(recipe=recipe)
    values = tomllib.loads((RECIPES / f"{recipe}.toml").read_text())
    assert values
    for name, value in values.items():
        assert getattr(config, name) == value, name
    assert find_network(config.network)
    assert config.data == "x"


def test_the_paper_recipe_is_the_published_protocol():
    config = load(recipe="paper")
    assert (config.network, config.granularity, config.placement) == ("paper8", "block", "shortcut")
    assert config.scales.first_value == 0
    assert (config.optimizer, config.learning_rate, config.schedule) == (
        "keras_adam",
        1e-3,
        "constant",
    )
    assert (config.epochs, config.batch_size, config.last_batch) == (10, 32, "keep")
    assert (config.shift_px, config.cutout_px, config.flip) == (0, 0, "none")
    assert (config.weight_decay, config.warmup, config.normalization) == (0.0, 0.0, "unit")


@pytest.mark.parametrize(
    "flags",
    [
        *(["--preset", name] for name in PRESETS if name.startswith(("adaresnet", "fixed", "no-"))),
        ["--network", "keras-resnet50", "--preset", "plain"],
        ["--network", "first-upload", "--preset", "first-upload"],
    ],
    ids=" ".join,
)
def test_the_paper_recipes_arms(flags):
    config = load(*flags, recipe="paper")
    preset = flags[-1]
    for name, value in PRESETS[preset].items():
        assert getattr(config, name) == value, name
    assert config.optimizer == "keras_adam"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_what_it_says_and_no_more(preset):
    config, default = load("--preset", preset), load()
    expected = {"preset": preset, **PRESETS[preset]}
    assert all(getattr(config, name) == value for name, value in expected.items())
    others = set(TrainConfig.model_fields) - set(expected)
    assert all(getattr(config, name) == getattr(default, name) for name in others)


# One of each family with all of them; those that only are deeper or wider take turns.
FAMILIES = {
    "resnet8",
    "resnet18",
    "resnet50-cifar",
    "wrn-16-4",
    "resnext29-8x64d",
    "resnext50-32x4d",
    "fast8",
    "paper8",
    "keras-resnet50",
    "first-upload",
}
PAIRS = [
    (name, preset)
    for (i, name), (j, preset) in itertools.product(enumerate(NETWORKS), enumerate(PRESETS))
    if name in FAMILIES or (i + j) % 7 == 0
]


@pytest.mark.parametrize(("name", "preset"), PAIRS)
def test_every_network_builds_with_every_preset_or_says_why_not(name, preset):
    config = load("--network", name, "--preset", preset)
    options = NetworkOptions(3, 4, 16, 0.05, config.scales, zero_gamma=config.zero_gamma)
    if (name, preset) == ("first-upload", "zero-gamma"):
        with pytest.raises(ValueError, match="--preset rezero"):
            build_network(name, options)
        return
    with torch.device("meta"):
        network = build_network(name, options)
    learned = any(
        p.requires_grad for m in network.modules() if isinstance(m, Scale) for p in m.parameters()
    )
    assert learned is (PRESETS[preset]["granularity"] != "fixed")
    placements = {
        ("shortcut" if block.shortcut_scale is not None else "")
        + ("branch" if block.branch_scale is not None else "")
        for _, block in network.named_blocks()
    }
    placement = PRESETS[preset]["placement"]
    assert placements == {"shortcutbranch" if placement == "both" else placement}


class TestWhoWins:
    def test_flags_over_recipe_over_preset_over_defaults(self, tmp_path):
        recipe = written(tmp_path, 'preset = "layerscale"\nscale_value = 0.3\nepochs = 7\n')
        config = load("--epochs", "9", "--scale-value", "0.2", recipe=recipe)
        assert (config.epochs, config.scale_value) == (9, 0.2)
        config = load(recipe=recipe)
        assert (config.epochs, config.scale_value) == (7, 0.3)
        assert (config.granularity, config.placement) == ("channel", "branch")
        assert (load().epochs, load().scale_value) == (40, None)

    def test_a_preset_from_a_flag_replaces_the_recipes(self, tmp_path):
        recipe = written(tmp_path, 'preset = "layerscale"\n')
        config = load("--preset", "fixed-2", recipe=recipe)
        assert (config.granularity, config.placement) == ("fixed", "shortcut")
        assert config.scale_value == 2.0

    def test_flags_win_over_their_preset(self):
        config = load("--preset", "adaresnet", "--scale-init", "one", "--granularity", "stage")
        assert (config.scale_init, config.granularity, config.placement) == (
            "one",
            "stage",
            "shortcut",
        )

    def test_tanh_begins_at_zero_unless_told_otherwise(self):
        assert load("--scale-bound", "tanh").scale_init == "zero"
        told = load("--scale-bound", "tanh", "--scale-init", "constant", "--scale-value", "0.5")
        assert told.scales.first_value == 0.5

    def test_the_environment_decides_nothing(self, monkeypatch):
        monkeypatch.setenv("EPOCHS", "3")
        monkeypatch.setenv("epochs", "3")
        assert load().epochs == 40

    def test_recipes_are_found_by_name_and_by_path(self, tmp_path, monkeypatch):
        assert recipe_path("paper") == RECIPES / "paper.toml"
        path = written(tmp_path, "epochs = 3\n")
        assert load(recipe=path).epochs == 3
        monkeypatch.chdir(tmp_path)
        (tmp_path / "paper").mkdir()  # a run of this name is no recipe
        assert recipe_path("paper") == RECIPES / "paper.toml"
        with pytest.raises(ValueError, match=r"no recipe 'nothing'.*paper"):
            load(recipe="nothing")


# What is typed, and what the answer must name.
WRONG = [
    (["--epochs", "0"], "--epochs"),
    (["--epochs", "ten"], "--epochs"),
    (["--batch-size", "1"], "--batch-size"),
    (["--learning-rate", "0"], "--learning-rate"),
    (["--drop-rate", "1"], "--drop-rate"),
    (["--momentum", "1"], "--momentum"),
    (["--image-px", "2"], "--image-px"),
    (["--granularity", "layer"], "--granularity"),
    (["--scale-bound", "relu"], "--scale-bound"),
    (["--optimizer", "adam"], "--optimizer"),
    (["--seed", "-1"], "--seed"),
    (["--preset", "adares"], "adaresnet-unified"),
    (["--batch-size", "10", "--accumulate", "3"], "accumulate"),
    (["--droppath", "residual", "--drop-per", "sample"], "--drop-per batch"),
    (["--residual-same-batch", "--residual-ratio", "2"], "residual_ratio"),
    (["--scale-init", "constant"], "--scale-value"),
    (["--scale-bound", "softplus", "--preset", "adaresnet"], "softplus"),
    (["--scale-bound", "tanh", "--scale-init", "one"], "--scale-init zero"),
    (["--scale-init", "constant", "--scale-value", "nan"], "--scale-value"),
]


@pytest.mark.parametrize(("flags", "named"), WRONG, ids=[" ".join(flags) for flags, _ in WRONG])
def test_wrong_values_name_the_flag(flags, named, capsys):
    assert train(["--data", "x", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert named in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


def test_missing_data_is_named(capsys):
    assert train([]) == 2
    assert "--data" in capsys.readouterr().err


def test_unknown_flags_and_recipe_keys(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        load("--epoch", "3")
    assert exit_info.value.code == 2
    assert "--epoch" in capsys.readouterr().err
    with pytest.raises(ValidationError, match="epoch"):
        load(recipe=written(tmp_path, "epoch = 3\n"))
    assert train(["--data", "x", "--recipe", written(tmp_path, "epochs = 0\n")]) == 2
    assert "epochs" in capsys.readouterr().err
    assert train(["--data", "x", "--recipe", written(tmp_path, "epochs == 0\n")]) == 2
    assert train(["--data", "x", "--recipe", "nothing"]) == 2
    assert "paper" in capsys.readouterr().err


class TestHash:
    def test_where_things_lie_does_not_matter(self):
        here = load("--out", "/a", "--device", "cpu", "--workers", "3")
        there = load("--out", "/b", "--no-tensorboard", "--compile", "off")
        assert here.stable_hash() == there.stable_hash()

    def test_what_decides_the_result_does(self):
        hashes = {
            load(*flags).stable_hash()
            for flags in (
                [],
                ["--seed", "1"],
                ["--granularity", "stage"],
                ["--droppath", "residual"],
                ["--drop-rate", "0.3"],
                ["--width", "2"],
                ["--resize-rule", "stretch"],
            )
        }
        assert len(hashes) == 7

    def test_flags_recipes_and_presets_hash_alike(self, tmp_path):
        recipe = load(recipe=written(tmp_path, "epochs = 3\nwidth = 2.0\n"))
        assert recipe.stable_hash() == load("--epochs", "3", "--width", "2").stable_hash()


def test_small_sets_get_more_epochs():
    config = load("--epochs", "5", "--min-steps", "100", "--batch-size", "10")
    assert config.steps_per_epoch(35) == 3
    assert config.model_copy(update={"last_batch": "keep"}).steps_per_epoch(35) == 4
    assert config.steps_per_epoch(4) == 1
    assert config.for_images(35).epochs == 34
    assert config.for_images(1000).epochs == 5
