"""A study's YAML: what is read, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core.errors import ConfigError
from orchestrator.planning.config import load_config, parse_config, to_data, to_yaml

CONF = Path("conf/quickstart.yaml")


def refused(*overrides: str, path: Path = CONF) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    assert "\n" not in str(error.value), "one line"
    return str(error.value)


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    """A copy of the quickstart that a test may spoil."""
    path = tmp_path / "study.yaml"
    path.write_text(CONF.read_text())
    return path


def spoil(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_unknown_key_names_the_file_the_path_and_the_nearest_key(yaml: Path) -> None:
    message = refused(path=spoil(yaml, "learning_rate:", "learing_rate:"))
    assert message == f"{yaml}: unknown key 'train.learing_rate' — did you mean 'learning_rate'?"


def test_a_cast_of_nobody_is_told_in_plain_words(yaml: Path) -> None:
    text = yaml.read_text()
    start, end = text.index("cast:"), text.index("dataset:")
    yaml.write_text(text[:start] + "cast: {}\n\n" + text[end:])
    assert "cast: is empty: give at least one" in refused(path=yaml)


@pytest.mark.parametrize(
    ("override", "unknown", "nearest"),
    [
        ("train.learing_rate=1", "train.learing_rate", "learning_rate"),
        ("grid.prompts.0.txt=a", "grid.prompts.0.txt", "text"),
        ("grid.drawing.sampeler=euler", "grid.drawing.sampeler", "sampler"),
        ("grid.epochs={evry: 2}", "grid.epochs.evry", "every"),
        ("cast.kanachan.hiar=brown", "cast.kanachan.hiar", "hair"),
        ("trials.wide.rnak=64", "trials.wide.rnak", "rank"),
        ("clusters={}", "clusters", "cluster"),
        ("base={transfomer: a, text_encoder: b, vae: c}", "base.transfomer", "transformer"),
        ("base={transformer: {sorce: a}, text_encoder: b, vae: c}", "base.transformer.sorce", "source"),
    ],
)
def test_unknown_key_of_any_part(override: str, unknown: str, nearest: str) -> None:
    message = refused(override)
    assert f"unknown key '{unknown}'" in message
    assert f"did you mean '{nearest}'?" in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epochs=many", ["command line: train.epochs=many", "train.epochs", "valid integer", "'many'"]),
        ("train.epochs=0", ["train.epochs", "greater than 0"]),
        ("train=5", ["train", "got 5"]),
        ("cluster.provider=moon", ["cluster.provider", "'local'", "'moon'"]),
        ("grid.seeds={first: 1, cuont: 8}", ["grid.seeds", "{first: 1, count: 8}"]),
        ("grid.seeds=[1,1]", ["grid.seeds", "listed twice: 1"]),
        ("grid.prompts.0.cast=[kanchan]", ["'kanchan', who is not in the cast", "did you mean 'kanachan'?"]),
        ("grid.prompts.0.text=nobody", ["does not name 'kanachan'"]),
        ("grid.prompts.0.negative=(solo:nan)", ["the weight of (solo:nan) is not finite"]),
        ("grid.drawing.noise=mine", ["grid.drawing.noise", "'keyed' or 'comfyui'"]),
        ("study=../elsewhere", ["'../elsewhere' cannot be a file name"]),
        ("trials={a/b: {}}", ["trial 'a/b' cannot be a file name"]),
        ("base=${nowhere}", ["'nowhere' not found"]),
        ("base=5", ["base: give `pocket`, a folder, hf://owner/model, or a mapping of sources"]),
        ("base={transformer: a, text_encoder: b}", ["'base.vae' is missing"]),
        ("base={transformer: a.ckpt, text_encoder: b, vae: c}", ["a.ckpt: is a pickle"]),
        ("base={transformer: 5, text_encoder: b, vae: c}", ["base.transformer"]),
        ("base={transformer: {source: a, sha256: abc}, text_encoder: b, vae: c}", ["base.transformer.sha256"]),
        ("train.epochs", ["cannot read override 'train.epochs'", "key=value"]),
        ("train.epochs={", ["cannot apply override"]),
        ("grid.prompts.x.text=a", ["cannot apply override"]),
    ],
)
def test_wrong_values_get_one_clear_line(override: str, words: list[str]) -> None:
    message = refused(override)
    for word in words:
        assert word in message


def test_a_missing_key_is_named(yaml: Path) -> None:
    assert "key 'base' is missing" in refused(path=spoil(yaml, "base: pocket", ""))


def test_a_file_that_is_not_there_names_one_that_is() -> None:
    assert "did you mean 'conf/quickstart.yaml'?" in refused(path=Path("conf/quikstart.yaml"))


@pytest.mark.parametrize("text", ["a: [", "- a\n- b\n", "\tx: 1", "study: 1: 2"])
def test_what_is_not_a_mapping_is_not_a_study(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert str(path) in refused(path=path)


def test_overrides_and_interpolation() -> None:
    config = load_config(CONF, ["train.epochs=${grid.batch}", "grid.seeds=[4, 7]", "decide={margin: 0.2}"])
    assert config.train.epochs == 8
    assert config.grid.seeds == (4, 7)
    assert (config.decide.margin, config.decide.confirm_seeds) == (0.2, 20), "a mapping is merged, a list replaced"


def test_seeds_and_epochs_have_short_forms() -> None:
    config = load_config(CONF, ["grid.seeds={first: 5, count: 3}", "grid.epochs=all"])
    assert config.grid.seeds == (5, 6, 7)
    assert config.grid.select_epochs((2, 4, 5)) == (2, 4, 5)
    every = load_config(CONF, ["grid.epochs={every: 4, first: 3}"]).grid
    assert every.select_epochs((2, 4, 6, 8, 9)) == (4, 8, 9), "the last epoch is always drawn"
    assert load_config(CONF, ["grid.epochs=[2, 6]"]).grid.select_epochs((2, 4, 6)) == (2, 6)


def test_a_trial_is_train_with_its_own_keys_on_top() -> None:
    assert list(load_config(CONF).trials) == ["main"]
    config = load_config(CONF, ["trials={small: {rank: 4}, same: {}}"])
    assert config.trials["small"].rank == 4
    assert config.trials["small"].learning_rate == config.train.learning_rate
    assert config.trials["same"] == config.train


def test_a_configuration_survives_the_ledger_and_a_file(tmp_path: Path) -> None:
    base = "base={transformer: a.safetensors, text_encoder: {source: s3://b/c, sha256: " + "ab" * 32 + "}, vae: o/m}"
    config = load_config(CONF, ["trials={small: {rank: 4}}", "grid.epochs={every: 2}", base])
    assert parse_config(to_data(config)) == config
    path = tmp_path / "study.yaml"
    path.write_text(to_yaml(config))
    assert load_config(path) == config


def test_nothing_in_a_configuration_can_be_changed() -> None:
    config = load_config(CONF)
    with pytest.raises(ValueError, match="frozen"):
        config.train.epochs = 3  # type: ignore[misc]
