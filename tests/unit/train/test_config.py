"""The training configuration: overrides and errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.errors import raises
from tests.programs import ROOT
from train.config.loading import load_config
from tritonkit.errors import ConfigError
from tritonkit.images.preprocess import Preprocess

GOOD = """\
name: cats
data:
  path: pictures
model:
  name: resnet18
image:
  size: 64
optimizer:
  lr: 1e-3
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def config_error(tmp_path: Path, text: str, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text), overrides)
    return caught.value


def test_config_has_defaults_when_keys_are_left_out(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert (config.optimizer.lr, config.scheduler.name, config.precision) == (1e-3, "cosine", "auto")
    assert config.image.preprocess == Preprocess(64, 64)


def test_config_takes_overrides_as_yaml_when_given(tmp_path: Path) -> None:
    overrides = ["epochs=3", "image={height: 32, width: 48}", "augment.flip=0", "model.arguments.depths=[1, 2]"]
    config = load_config(write(tmp_path, GOOD), overrides)
    assert (config.epochs, config.augment.flip, config.model.arguments) == (3, 0.0, {"depths": [1, 2]})
    assert (config.image.preprocess.height, config.image.preprocess.width) == (32, 48)


@pytest.mark.parametrize(
    ("change", "code", "expected"),
    [
        (("lr: 1e-3", "lr: fast"), "config.value", "line 9, optimizer.lr: "),
        (("lr: 1e-3", "lr: -1"), "config.value", "line 9, optimizer.lr: "),
        (("lr: 1e-3", "lr: .nan"), "config.value", "line 9, optimizer.lr: "),
        (
            ("  name: resnet18", "  nmae: resnet18"),
            "config.unknown_key",
            "line 5, model.nmae: unknown key; did you mean model.name?",
        ),
        (
            ("name: cats", "name: cats\nlr: 1"),
            "config.unknown_key",
            "line 2, lr: unknown key; did you mean optimizer.lr?",
        ),
        (("name: cats", "name: cats\nname: dogs"), "config.duplicate_key", "line 2, name: "),
        (("name: cats", "name: ../cats"), "config.name_pattern", "line 1, name: "),
        (("name: cats", "name: no"), "config.needs_quotes", "line 1, name: YAML reads `no` as false"),
        (("name: cats", "name: 7"), "config.needs_quotes", "line 1, name: YAML reads `7` as a number"),
        (
            ("  path: pictures", "  path: a\n  labels: ['no', Yes]"),
            "config.needs_quotes",
            "line 4, data.labels.1: YAML reads `Yes` as true",
        ),
        (
            ("  path: pictures", "  path: a\n  mask_values: {no: 0, thing: 1}"),
            "config.needs_quotes",
            "line 4, data.mask_values.0: YAML reads `no` as false",
        ),
        (
            ("  path: pictures", "  path: a\n  mask_values: {a: 1-x, b: 1}"),
            "config.rule",
            "line 4, data.mask_values: expected a number",
        ),
        (("  path: pictures", "  path: a\n  mask_values: {a: 1, b: [1, 2]}"), "config.rule", "data.mask_values: 1 "),
        (("name: cats\n", ""), "config.missing_key", "name: "),
        (("  size: 64", "  height: 64"), "config.rule", "line 6, image: expected `size`"),
        (("  size: 64", "  size: 9000"), "config.rule", "8192"),
        (
            ("  path: pictures", "  path: a\n  val_ratio: 0.6\n  test_ratio: 0.5"),
            "config.rule",
            "val_ratio + test_ratio",
        ),
        (("image:\n  size: 64", "image: 64"), "config.not_a_section", "line 6, image: "),
    ],
)
def test_config_names_line_and_key_when_a_value_is_wrong(
    tmp_path: Path, change: tuple[str, str], code: str, expected: str
) -> None:
    error = config_error(tmp_path, GOOD.replace(*change))
    # A misspelled key is also a missing key.
    assert {code} <= {problem.code for problem in error.problems} <= {code, "config.missing_key"}
    assert expected in str(error)


@pytest.mark.parametrize(
    ("override", "code", "expected"),
    [
        ("epochs", "config.override_syntax", "override 'epochs': "),
        ("epochs=[", "config.override_not_yaml", "override 'epochs=[': "),
        ("epochs=0", "config.value", "override 'epochs=0', epochs: "),
        (
            "data.labels=[off]",
            "config.needs_quotes",
            "override 'data.labels=[off]', data.labels.0: YAML reads `off` as false",
        ),
        ("name.x=1", "config.override_not_a_section", "override 'name.x=1': "),
        (
            "augment.flp=1",
            "config.unknown_key",
            "override 'augment.flp=1', augment.flp: unknown key; did you mean augment.flip?",
        ),
    ],
)
def test_config_names_the_override_when_it_is_wrong(tmp_path: Path, override: str, code: str, expected: str) -> None:
    error = config_error(tmp_path, GOOD, override)
    assert [problem.code for problem in error.problems] == [code]
    assert expected in str(error)


def test_config_lists_all_problems_when_there_are_several(tmp_path: Path) -> None:
    error = config_error(tmp_path, GOOD.replace("64", "-1").replace("1e-3", "0"), "seed=-1", "precision=fp8")
    assert [problem.code for problem in error.problems] == ["config.value"] * 4
    for key in ("line 7, image.size", "line 9, optimizer.lr", "'seed=-1', seed", "'precision=fp8', precision"):
        assert key in str(error)


@pytest.mark.parametrize(
    ("text", "code", "expected"),
    [
        ("a: [1\nb: 2", "config.not_yaml", "line 2, column 2"),
        ("- a", "config.not_a_mapping", "a list"),
        ("", "config.not_a_mapping", "nothing"),
        ("a: &a {b: *a}", "config.not_yaml", ""),
    ],
)
def test_config_is_refused_when_the_file_is_no_mapping(tmp_path: Path, text: str, code: str, expected: str) -> None:
    error = config_error(tmp_path, text)
    assert error.code == code
    assert expected in str(error)


def test_config_is_refused_when_the_file_is_missing(tmp_path: Path) -> None:
    with raises(ConfigError, "config.not_found"):
        load_config(tmp_path / "missing.yaml")


def test_example_is_a_valid_config() -> None:
    path = ROOT / "examples" / "digits.yaml"
    assert load_config(path).data.path == Path(".cache/data/digits")


def test_error_names_the_override_when_it_replaced_a_list_of_the_file(tmp_path: Path) -> None:
    error = config_error(tmp_path, f"{GOOD}\ntrackers:\n  - csv\n  - tensorboard\n", "trackers=[csv, wandb]")
    assert "override 'trackers=[csv, wandb]', trackers.1" in str(error)
    assert "line " not in str(error)
