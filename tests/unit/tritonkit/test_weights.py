"""Third-party weights: matched to the network, or refused with the reason."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from builder.sources import source_from_state_dict
from tests.errors import raises
from tests.fixture_types import NetworkOf
from tritonkit.errors import CheckpointError, SpecError
from tritonkit.export_options import ForeignModelOptions
from tritonkit.networks.weight_matching import map_weights, match_weights
from tritonkit.networks.weights import State, read_foreign_weights
from tritonkit.options import options_from
from tritonkit.spec import TaskSpec


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(1)
    return dict(timm.create_model("test_resnet", num_classes=3).state_dict())


def equal_tensors(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_weights_are_matched_by_name(state: State) -> None:
    matched = map_weights(state, state, "x")
    assert equal_tensors(matched.weights, state)
    assert matched.description == "matched by name"


@pytest.mark.parametrize("prefix", ["module.", "model.backbone.", "_orig_mod."])
def test_weights_are_matched_by_stripped_prefix(state: State, prefix: str) -> None:
    extra = {"loss.margin": torch.zeros(1)}
    matched = map_weights({prefix + key: value for key, value in state.items()} | extra, state, "x")
    assert equal_tensors(matched.weights, state)
    assert f"after stripping {prefix!r}; 1 tensor of the file is not used: loss.margin" in matched.description


def test_weights_are_matched_by_order_when_only_names_differ(state: State) -> None:
    values = [value for key, value in state.items() if not key.endswith("num_batches_tracked")]
    matched = map_weights({f"layer_{i}": value for i, value in enumerate(values)}, state, "x")
    assert equal_tensors(matched.weights, state)
    assert matched.description.startswith(f"{len(values)} tensors matched by order")


def test_weights_by_order_are_refused_when_a_variance_would_be_negative(state: State) -> None:
    required = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    available = {
        f"layer_{i}": -torch.ones_like(value) if key.endswith("running_var") else value
        for i, (key, value) in enumerate(required.items())
    }
    with raises(CheckpointError, "checkpoint.negative_variance"):
        map_weights(available, required, "x")


def test_weights_are_refused_when_the_class_count_differs(state: State) -> None:
    other = dict(timm.create_model("test_resnet", num_classes=7).state_dict())
    with raises(CheckpointError, "checkpoint.shapes", "fc.weight: expected [3,"):
        map_weights(other, state, "w.pth")


def test_class_count_is_named_when_only_it_hinders_a_match_by_order(state: State) -> None:
    other = timm.create_model("test_resnet", num_classes=7).state_dict()
    values = [value for key, value in other.items() if not key.endswith("num_batches_tracked")]
    with raises(CheckpointError, "checkpoint.shapes"):
        map_weights({f"layer_{i}": value for i, value in enumerate(values)}, state, "w.pth")


def test_weights_are_refused_when_nothing_fits(state: State) -> None:
    with raises(CheckpointError, "checkpoint.no_match"):
        map_weights({"a": torch.zeros(1)}, state, "w.pth")
    convolutions = {key: tensor for key, tensor in state.items() if "conv" in key}
    with raises(CheckpointError, "checkpoint.no_match") as caught:
        map_weights(convolutions, state, "w.pth")
    assert re.search(r"Missing \d+: .*, …\. Is --model", str(caught.value))
    assert "not in the network" not in str(caught.value)


def own_checkpoint(state: State) -> State:
    return {f"backbone.{key}": value for key, value in state.items()}


HEAD = ("fc.weight", "fc.bias")


def test_weights_are_transferred_but_for_the_head_when_a_checkpoint_of_ours_has_other_classes(state: State) -> None:
    other = own_checkpoint(dict(timm.create_model("test_resnet", num_classes=7).state_dict()))
    transferred = match_weights(other, own_checkpoint(state), "x")
    assert transferred.skipped == transferred.new_tensors == tuple(f"backbone.{key}" for key in HEAD)
    assert transferred.weights.keys() == {
        key for key in own_checkpoint(state) if not key.endswith(("num_batches_tracked", *HEAD))
    }
    assert all(torch.equal(transferred.weights[key], other[key]) for key in transferred.weights)


def test_weights_are_transferred_whole_when_the_classes_are_as_many(state: State) -> None:
    transferred = match_weights(own_checkpoint(state), own_checkpoint(state), "x")
    assert (transferred.skipped, transferred.new_tensors) == ((), ())


@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone.", "model."])
def test_weights_are_transferred_when_a_foreign_file_has_another_prefix(state: State, prefix: str) -> None:
    foreign = {prefix + key: value for key, value in state.items()} | {"loss.margin": torch.zeros(1)}
    transferred = match_weights(foreign, own_checkpoint(state), "w.pth")
    assert transferred.new_tensors == ()
    assert transferred.skipped == ("loss.margin",)
    assert all(torch.equal(value, own_checkpoint(state)[key]) for key, value in transferred.weights.items())


def test_backbone_is_transferred_when_the_network_has_several_heads(state: State, network_of: NetworkOf) -> None:
    heads = {"a": TaskSpec(task="multiclass", labels=("x", "y")), "b": TaskSpec(task="embedding", embedding_size=4)}
    target = network_of(TaskSpec(task="heads", heads=heads)).state_dict()
    transferred = match_weights(state, dict(target), "w.pth")
    assert transferred.skipped == HEAD
    assert transferred.new_tensors == tuple(f"heads.{name}_head.{part}" for name in "ab" for part in ("weight", "bias"))


@pytest.mark.parametrize("classes", [3, 7])
def test_weights_are_transferred_by_order_when_only_names_differ(state: State, classes: int) -> None:
    other = timm.create_model("test_resnet", num_classes=classes).state_dict()
    values = [value for key, value in other.items() if not key.endswith("num_batches_tracked")]
    transferred = match_weights({f"layer_{i}": value for i, value in enumerate(values)}, own_checkpoint(state), "w.pth")
    remade = () if classes == 3 else tuple(f"backbone.{key}" for key in HEAD)
    assert transferred.new_tensors == remade
    assert "matched by order" in transferred.description
    assert torch.equal(transferred.weights["backbone.conv1.0.weight"], values[0])


def test_moving_average_is_taken_and_told_when_a_state_holds_both(state: State) -> None:
    both = {f"net.{key}": value for key, value in state.items()}
    both |= {f"net_ema.{key}": value + 1 for key, value in state.items()}
    matched = match_weights(both, state, "w.pth")
    assert torch.equal(matched.weights["fc.bias"], state["fc.bias"] + 1)
    assert "after stripping 'net_ema.' (a moving average; those under 'net.' fit as well)" in matched.description


def test_transfer_is_refused_when_nothing_fits(state: State) -> None:
    other = dict(timm.create_model("test_vit", num_classes=3).state_dict())
    with raises(CheckpointError, "checkpoint.no_match") as caught:
        match_weights(other, own_checkpoint(state), "w.pth")
    assert re.search(r"w\.pth: .*xpected backbone\.", str(caught.value))


@pytest.mark.parametrize("key", ["state_dict", "model", "state_dict_ema"])
def test_state_dict_is_found_when_nested(tmp_path: Path, state: State, key: str) -> None:
    torch.save({key: state, "epoch": 3}, tmp_path / "w.pth")
    assert equal_tensors(read_foreign_weights(tmp_path / "w.pth"), state)


def test_state_dict_is_read_from_safetensors(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "w.safetensors")
    assert equal_tensors(read_foreign_weights(tmp_path / "w.safetensors"), state)


class Payload:
    """Runs code when unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path("/tmp/tritonkit-was-here").write_text, ("x",))


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = Path("/tmp/tritonkit-was-here")
    marker.unlink(missing_ok=True)
    torch.save({"state_dict": Payload()}, tmp_path / "w.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Payload()))
    for name in ("w.pth", "raw.pth"):
        with raises(CheckpointError, "checkpoint.pickled_code"):
            read_foreign_weights(tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with raises(CheckpointError, "checkpoint.unreadable"):
        read_foreign_weights(tmp_path / "w.pth")


def test_source_takes_mean_std_and_size_from_the_options(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "w.pth")
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    texts = {"mean": "0.1,0.2,0.3", "std": "0.4,0.5,0.6", "size": "48x64"}
    labels = tmp_path / "labels.txt"
    foreign = options_from(ForeignModelOptions, {"model": "test_resnet", "labels": labels, **texts})
    spec = source_from_state_dict(tmp_path / "w.pth", foreign).network.spec
    assert spec.input.shape == (48, 64, 3)
    assert (spec.normalize.mean, spec.normalize.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert spec.labels == ("a", "b", "c")
    assert "matched by name" in (spec.lineage.note or "")


def test_labels_are_refused_when_a_line_is_blank(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "w.pth")
    (tmp_path / "labels.txt").write_text("a\n\nc\n")
    with raises(SpecError, "source.blank_label", "line 2"):
        source_from_state_dict(
            tmp_path / "w.pth", ForeignModelOptions(model="test_resnet", labels=tmp_path / "labels.txt")
        )
