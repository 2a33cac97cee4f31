"""Pruning: its section of the configuration, which weights become zero and when, and channels that are removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.errors import raises
from tests.fixture_types import MakeNetwork, NetworkOf
from tests.task_specs import TASK_SPECS
from tests.train_configs import tiny_config
from train.compress import AFTER, BEFORE, CompressOptions, compression_config, conclusion
from train.compression.channels import match_channels, remove_channels
from train.compression.layers import select_layers
from train.compression.zeros import PrunedTensor, first_complete_epoch, pruned_tensors, share_after
from train.config.loading import Config
from train.config.pruning import PruningConfig
from train.config.pruning_functions import CHANNELS, ZEROS
from tritonkit.errors import ConfigError, InputError
from tritonkit.networks.network import Network, load_network, save_network
from tritonkit.spec import TaskSpec

HALF = PruningConfig(function=CHANNELS, amount=0.5)


def parameter_count(network: Network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def images_of(network: Network) -> Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (2, *network.spec.input.shape), dtype=torch.uint8)


def assert_equal_outputs(first: Network, second: Network) -> None:
    with torch.inference_mode():
        for expected, actual in zip(first(images_of(first)), second(images_of(first)), strict=True):
            assert torch.equal(expected, actual)


@pytest.mark.parametrize(
    "section",
    [
        {"amount": 1.0},
        {"amount": 0.0},
        {"amount": 0},
        {"amount": -0.5},
        {"amount": True},
        {"amount": "half"},
        {"function": "l2_unstructured"},
        {"keys": []},
        {"keys": ["gamma"]},
        {"when": "sometimes"},
        {"when": "stage"},  # without frozen_epochs
        {"function": "l1_unstructured", "dim": 0},
        {"function": "random_structured", "norm": 1},
        {"function": "ln_structured", "norm": 0},
        {"function": "ln_structured", "keys": ["weight", "bias"]},
        {"function": CHANNELS, "amount": 4},
        {"function": CHANNELS, "when": "end"},
        {"function": CHANNELS},  # without trained weights
        {"layer": ["fc"]},
    ],
)
def test_pruning_is_refused_when_the_section_makes_no_sense(section: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="pruning"):
        tiny_config(pruning=section)


@pytest.mark.parametrize("amount", [0.25, 3])
def test_amount_stays_a_share_or_a_number_when_the_configuration_is_stored(amount: float) -> None:
    config = tiny_config(pruning={"amount": amount})
    (section,) = Config.model_validate_json(config.model_dump_json()).pruning
    assert (section.amount, type(section.amount)) == (amount, type(amount))


@pytest.mark.parametrize(
    ("section", "code"),
    [
        ({"layers": ["layer9.*", "layer1"]}, "pruning.no_layers"),
        ({"layers": ["conv1.0"], "keys": ["bias"]}, "pruning.no_tensors"),
        ({"amount": 10**9}, "pruning.amount"),
        ({"amount": 1e-9}, "pruning.amount"),
        ({"function": "ln_structured", "amount": 0.999, "layers": ["layer1"]}, "pruning.amount"),
        ({"function": "ln_structured", "layers": ["fc"], "dim": 2}, "pruning.dim"),
        ([{"layers": ["fc", "layer1"]}, {"layers": ["layer1.0.conv1"]}], "pruning.overlap"),
    ],
)
def test_pruning_is_refused_when_it_does_not_fit_the_network(
    make_network: MakeNetwork, section: Any, code: str
) -> None:
    with raises(ConfigError, code, "pruning"):
        pruned_tensors(make_network("test_resnet"), tiny_config(pruning=section))


def test_all_layers_but_the_last_are_selected_when_there_is_no_pattern(make_network: MakeNetwork) -> None:
    network = make_network("test_resnet")
    names = set(select_layers(network, PruningConfig()))
    assert "layer1.0.conv1" in names
    assert "fc" not in names
    assert {name.partition(".")[0] for name in select_layers(network, PruningConfig(layers=("layer1", "f?")))} == {
        "layer1",
        "fc",
    }


@pytest.mark.parametrize(
    ("changes", "shares", "complete"),
    [
        ({"epochs": 5}, [0, 1 / 3, 2 / 3, 1, 1, 1], 2),
        ({"epochs": 1}, [0, 1], 0),
        ({"epochs": 2, "when": "start"}, [1, 1, 1], 0),
        ({"epochs": 2, "frozen_epochs": 2, "when": "stage"}, [0, 0, 1, 1, 1], 1),
        ({"epochs": 3, "when": "end"}, [0, 0, 0, 1], 2),
    ],
)
def test_weights_become_zero_when_it_is_their_time(changes: dict[str, Any], shares: list[float], complete: int) -> None:
    when = {"when": changes.pop("when")} if "when" in changes else {}
    config = tiny_config(pruning=when, **changes)
    (section,) = config.pruning
    assert [share_after(section, epoch, config) for epoch in range(-1, config.total_epochs)] == pytest.approx(shares)
    assert first_complete_epoch(config) == complete


@pytest.mark.parametrize("function", ZEROS)
def test_zeros_are_added_to_those_before_when_pruned_again(function: str) -> None:
    layer = torch.nn.Conv2d(6, 10, 3)
    section = PruningConfig.model_validate({"function": function, "amount": 0.5})
    pruned = PrunedTensor("conv.weight", layer, "weight", section)
    unit = 6 * 9 if pruned.is_structured else 1
    assert pruned.size * unit == layer.weight.numel()
    first = pruned.prune_more(torch.ones_like(layer.weight, dtype=torch.bool), pruned.target // 5)
    second = pruned.prune_more(first, pruned.target - pruned.target // 5)
    assert int((~first).sum()) == pruned.target // 5 * unit
    assert int((~second).sum()) == layer.weight.numel() // 2
    assert not (second & ~first).any()
    kept, lost = layer.weight.detach().abs()[second], layer.weight.detach().abs()[~second]
    if function == "l1_unstructured":
        assert kept.min() >= lost.max()
    assert list(layer.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("task", TASK_SPECS)
def test_channels_are_gone_and_the_checkpoint_opens_when_removed(
    network_of: NetworkOf, task: str, tmp_path: Path
) -> None:
    network = network_of(TASK_SPECS[task])
    before = parameter_count(network)
    remove_channels(network, HALF)
    save_network(tmp_path / "pruned.safetensors", network)
    loaded = load_network(tmp_path / "pruned.safetensors")
    assert parameter_count(loaded) == parameter_count(network) < 0.45 * before
    assert loaded.spec.architecture.pruned
    assert "channels removed" in dict(loaded.spec.summary_rows())["architecture"]
    assert_equal_outputs(network, loaded)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext", "test_efficientnet_gn", "regnetx_002"])
def test_depthwise_and_grouped_convolutions_open_again_when_channels_were_removed(
    make_network: MakeNetwork, name: str, tmp_path: Path
) -> None:
    network = make_network(name)
    before = parameter_count(network)
    remove_channels(network, HALF)
    save_network(tmp_path / "pruned.safetensors", network)
    loaded = load_network(tmp_path / "pruned.safetensors")
    assert parameter_count(loaded) < 0.45 * before
    assert_equal_outputs(network, loaded)
    remove_channels(loaded, HALF)  # the sizes of the layers are true
    assert parameter_count(loaded) < 0.25 * before


def test_only_hidden_channels_are_removed_when_a_vision_transformer_is_pruned(make_network: MakeNetwork) -> None:
    with raises(ConfigError, "pruning.unsupported_network", "test_vit", "blocks.*.mlp.fc1"):
        remove_channels(make_network("test_vit"), HALF)
    network = make_network("test_vit")
    before = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    remove_channels(network, HALF.model_copy(update={"layers": ("blocks.*.mlp.fc1",)}))
    changed = {key for key, tensor in network.state_dict().items() if tuple(tensor.shape) != before[key]}
    assert {key.split(".")[4] for key in changed} == {"fc1", "fc2"}


def test_channels_fit_a_network_with_more_classes_when_it_is_fine_tuned(
    make_network: MakeNetwork, network_of: NetworkOf
) -> None:
    source = make_network("test_resnet")
    remove_channels(source, HALF)
    wider = network_of(TaskSpec(task="multiclass", labels=tuple("abcdefg")))
    match_channels(wider, source.spec.architecture, source.state_dict(), "x.safetensors")
    assert parameter_count(wider) < 1.1 * parameter_count(source)
    logits = wider.logits(images_of(wider))
    assert isinstance(logits, Tensor)
    assert logits.shape == (2, 7)
    with raises(ConfigError, "pruning.other_network", "test_vit"):
        match_channels(make_network("test_vit"), source.spec.architecture, source.state_dict(), "x.safetensors")


def test_removal_is_refused_when_no_channel_would_go(make_network: MakeNetwork) -> None:
    with raises(ConfigError, "pruning.nothing_removed"):
        remove_channels(make_network("test_resnet"), HALF.model_copy(update={"layers": ("fc",)}))


def test_layers_that_would_keep_no_channel_are_named(
    make_network: MakeNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    for amount in (0.5, 0.99):
        remove_channels(make_network("resnet18"), HALF.model_copy(update={"amount": amount}))
        assert ("keep all channels: conv1, layer1.0.conv1" in capsys.readouterr().err) == (amount == 0.99)


@pytest.mark.parametrize("sparsity", [0.0, 1.0, 1.5, -0.1])
def test_compression_is_refused_when_everything_or_nothing_would_go(checkpoint: Path, sparsity: float) -> None:
    with raises(InputError, "option.sparsity", str(sparsity)):
        compression_config(CompressOptions(checkpoint, sparsity=sparsity), checkpoint)


def test_compression_is_refused_when_the_checkpoint_was_not_trained_here(checkpoint: Path) -> None:
    with raises(InputError, "checkpoint.no_config", str(checkpoint)):
        compression_config(CompressOptions(checkpoint), checkpoint)


@pytest.mark.parametrize(
    ("method", "rates", "expected"),
    [
        (CHANNELS, {BEFORE: [100, 110, 90], AFTER: [200, 220, 210]}, "2.00 times the images per second."),
        (CHANNELS, {BEFORE: [100, 110, 90], AFTER: [105, 109, 120]}, "no clear gain: in a small network"),
        ("l1_unstructured", {BEFORE: [100, 101, 99], AFTER: [100, 99, 101]}, "zeros bring no speed without a runtime"),
    ],
)
def test_conclusion_says_whether_it_is_faster_when_measured(
    method: str, rates: dict[str, list[float]], expected: str
) -> None:
    assert expected in conclusion(method, 2.0, rates[BEFORE], rates[AFTER])
