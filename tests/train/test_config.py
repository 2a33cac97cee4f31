from __future__ import annotations

from pathlib import Path

import pytest

from model.errors import ConfigError
from model.preprocess import Preprocess
from train.config import load_config

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


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def message(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, text), overrides)
    return str(caught.value)


def test_config_has_defaults_when_keys_are_left_out(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, GOOD))
    assert (config.optimizer.lr, config.scheduler.name, config.precision) == (1e-3, "cosine", "auto")
    assert config.image.preprocess == Preprocess(64, 64)


def test_config_takes_overrides_as_yaml_when_given(tmp_path: Path) -> None:
    overrides = ["epochs=3", "image={height: 32, width: 48}", "augment.flip=0", "model.arguments.depths=[1, 2]"]
    config = load_config(written(tmp_path, GOOD), overrides)
    assert (config.epochs, config.augment.flip, config.model.arguments) == (3, 0.0, {"depths": [1, 2]})
    assert (config.image.preprocess.height, config.image.preprocess.width) == (32, 48)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("lr: 1e-3", "lr: fast"), "line 9, optimizer.lr: expected a valid number"),
        (("lr: 1e-3", "lr: -1"), "line 9, optimizer.lr: expected greater than 0, got -1"),
        (("lr: 1e-3", "lr: .nan"), "line 9, optimizer.lr: expected a finite number, got nan"),
        (("  name: resnet18", "  nmae: resnet18"), "line 5, model.nmae: unknown key; did you mean model.name?"),
        (("name: cats", "name: cats\nlr: 1"), "line 2, lr: unknown key; did you mean optimizer.lr?"),
        (("name: cats", "name: cats\nname: dogs"), "line 2, name: stands twice, before in line 1"),
        (("name: cats", "name: ../cats"), "line 1, name: letters, digits, `.`, `_` and `-` only, beginning with"),
        (("name: cats", "name: no"), "line 1, name: YAML reads `no` as false; write 'no' in quotes"),
        (("name: cats", "name: 7"), "line 1, name: YAML reads `7` as a number; write '7' in quotes"),
        (
            ("  path: pictures", "  path: a\n  labels: ['no', Yes]"),
            "line 4, data.labels.1: YAML reads `Yes` as true; write 'Yes' in quotes",
        ),
        (
            ("  path: pictures", "  path: a\n  mask_values: {no: 0, thing: 1}"),
            "line 4, data.mask_values.0: YAML reads `no` as false; write 'no' in quotes",
        ),
        (
            ("  path: pictures", "  path: a\n  mask_values: {a: 1-x, b: 1}"),
            "line 4, data.mask_values: expected a number, a range such as 1-255, nonzero, or [red, green, blue], got",
        ),
        (("  path: pictures", "  path: a\n  mask_values: {a: 1, b: [1, 2]}"), "1 stands for two classes; give it to"),
        (("name: cats\n", ""), "name: is required"),
        (("  size: 64", "  height: 64"), "line 6, image: expected `size`, or both `height` and `width`"),
        (("  size: 64", "  size: 9000"), "line 6, image: a model's height and width lie in 1..8192"),
        (("  path: pictures", "  path: a\n  val_ratio: 0.6\n  test_ratio: 0.5"), "leave nothing to train on"),
        (("image:\n  size: 64", "image: 64"), "line 6, image: expected a section with keys of its own, got 64"),
    ],
)
def test_config_names_line_and_key_when_a_value_is_wrong(
    tmp_path: Path, change: tuple[str, str], expected: str
) -> None:
    text = message(tmp_path, GOOD.replace(*change))
    assert expected in text
    assert "1 problem " in text or "required" in text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("epochs", "override 'epochs': expected KEY=VALUE"),
        ("epochs=[", "override 'epochs=[': the value is not YAML"),
        ("epochs=0", "override 'epochs=0', epochs: expected greater than 0, got 0"),
        ("data.labels=[off]", "override 'data.labels=[off]', data.labels.0: YAML reads `off` as false; write 'off'"),
        ("name.x=1", "override 'name.x=1': name is a value, so it holds no 'x'"),
        ("augment.flp=1", "override 'augment.flp=1', augment.flp: unknown key; did you mean augment.flip?"),
    ],
)
def test_config_names_the_override_when_it_is_wrong(tmp_path: Path, override: str, expected: str) -> None:
    assert expected in message(tmp_path, GOOD, override)


def test_config_lists_all_problems_when_there_are_several(tmp_path: Path) -> None:
    text = message(tmp_path, GOOD.replace("64", "-1").replace("1e-3", "0"), "seed=-1", "precision=fp8")
    assert "4 problems" in text
    for key in ("line 7, image.size", "line 9, optimizer.lr", "'seed=-1', seed", "'precision=fp8', precision"):
        assert key in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1\nb: 2", "not YAML: line 2, column 2"),
        ("- a", "expected `key: value` pairs at the top level, got a list"),
        ("", "got nothing"),
        ("a: &a {b: *a}", "not YAML"),
    ],
)
def test_config_is_refused_when_the_file_is_no_mapping(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in message(tmp_path, text)


def test_config_is_refused_when_the_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "missing.yaml")


def test_example_is_a_valid_config() -> None:
    path = Path(__file__).parents[2] / "examples" / "digits.yaml"
    assert load_config(path).data.path == Path(".cache/data/digits")
