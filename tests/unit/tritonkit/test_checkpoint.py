"""Checkpoints: bit-exact, safe to open, with clear errors."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from tests.errors import raises
from tests.fixture_types import MakeNetwork
from tests.programs import run_python
from tritonkit.checkpoint import read_spec, read_weights, write_checkpoint
from tritonkit.errors import CheckpointError, SpecError
from tritonkit.images.preprocess import ImageArray
from tritonkit.networks.network import load_network, load_weights, save_network
from tritonkit.spec import METADATA_KEY, Lineage, ModelSpec

DTYPES = [np.float64, np.float32, np.float16, np.int64, np.int32, np.uint8, np.bool_]
SHAPES: list[tuple[int, ...]] = [(), (1,), (2, 3), (0, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_bit_exact_when_read_back(
    tmp_path: Path, spec: ModelSpec, dtype: type, shape: tuple[int, ...]
) -> None:
    array = np.random.default_rng(0).normal(0, 50, shape).__array__().astype(dtype)
    write_checkpoint(tmp_path / "a.safetensors", spec, {"weight": array})
    back = read_weights(tmp_path / "a.safetensors")["weight"]
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_weights_keep_their_order_when_an_array_is_a_transposed_view(tmp_path: Path, spec: ModelSpec) -> None:
    array = np.arange(6.0).reshape(2, 3).T
    write_checkpoint(tmp_path / "a.safetensors", spec, {"weight": array})
    assert np.array_equal(read_weights(tmp_path / "a.safetensors")["weight"], array)


def test_save_network_writes_the_given_spec_when_there_is_one(
    tmp_path: Path, make_network: MakeNetwork, spec: ModelSpec
) -> None:
    with_lineage = spec.model_copy(update={"lineage": Lineage(seed=3)})
    save_network(tmp_path / "net.safetensors", make_network("test_resnet"), with_lineage)
    assert read_spec(tmp_path / "net.safetensors") == with_lineage


class _RunsCode:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def test_no_code_runs_when_a_pickle_is_named_safetensors(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.safetensors", tmp_path / "trace"
    path.write_bytes(pickle.dumps(_RunsCode(trace)))
    with raises(CheckpointError, "checkpoint.unreadable"):
        read_spec(path)
    assert not trace.exists()


def test_checkpoint_is_refused_when_it_is_a_renamed_pth(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    torch.save({"weight": torch.zeros(3)}, path)
    with raises(CheckpointError, "checkpoint.unreadable"):
        load_network(path)


@pytest.mark.parametrize("size", [0, 4, 8, 500, -1])
def test_checkpoint_is_refused_when_it_is_cut_short(checkpoint: Path, size: int) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:size])
    with raises(CheckpointError, "checkpoint.unreadable"):
        read_spec(checkpoint)


@pytest.mark.parametrize("read", [read_spec, read_weights, load_network])
@pytest.mark.parametrize("name", ["absent.safetensors", "."])
def test_checkpoint_is_refused_when_there_is_no_such_file(
    tmp_path: Path, read: Callable[[Path], object], name: str
) -> None:
    with raises(CheckpointError, "checkpoint.not_found"):
        read(tmp_path / name)


def test_checkpoint_in_a_folder_is_named_when_the_folder_is_given(tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").touch()
    with raises(CheckpointError, "checkpoint.run_folder", "best.safetensors"):
        read_spec(tmp_path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_checkpoint_tells_how_to_bring_weights_in_when_it_has_no_spec(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    save_file({"weight": np.zeros(3)}, tmp_path / "hub.safetensors", metadata=metadata)
    with raises(CheckpointError, "checkpoint.no_spec", f"builder export {tmp_path / 'hub.safetensors'} --model"):
        read_spec(tmp_path / "hub.safetensors")


def test_checkpoint_names_the_file_when_its_spec_is_broken(tmp_path: Path) -> None:
    save_file({"weight": np.zeros(3)}, tmp_path / "odd.safetensors", metadata={METADATA_KEY: "{}"})
    with raises(SpecError, "spec.fields", "odd.safetensors: "):
        read_spec(tmp_path / "odd.safetensors")


@pytest.mark.parametrize(("dtype", "word"), [(torch.bfloat16, "BF16"), (torch.float8_e4m3fn, "F8_E4M3")])
def test_weights_are_refused_when_numpy_lacks_their_type(tmp_path: Path, dtype: torch.dtype, word: str) -> None:
    save_torch({"head.weight": torch.ones(3).to(dtype)}, tmp_path / "half.safetensors")
    with raises(CheckpointError, "checkpoint.dtype", "head.weight", word, "float32"):
        read_weights(tmp_path / "half.safetensors")


@pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
def test_weights_are_refused_when_they_do_not_fit(checkpoint: Path, spec: ModelSpec, change: str) -> None:
    weights = read_weights(checkpoint)
    if change == "surplus":
        weights["backbone.extra"] = np.zeros(2)
    elif change == "missing":
        del weights["backbone.fc.weight"]
    else:
        weights["backbone.fc.weight"] = weights["backbone.fc.weight"][:, 1:]
    write_checkpoint(checkpoint, spec, weights)
    with raises(
        CheckpointError,
        "checkpoint.weights",
        "pets.safetensors: ",
        ("backbone.extra" if change == "surplus" else "backbone.fc.weight"),
    ):
        load_network(checkpoint)


def test_weights_are_refused_when_they_are_of_another_architecture(make_network: MakeNetwork) -> None:
    with raises(CheckpointError, "checkpoint.weights"):
        load_weights(make_network("test_resnet"), make_network("test_vit").state_dict(), origin="vit.pth")


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit"])
def test_network_answers_the_same_bits_when_read_back(
    tmp_path: Path, make_network: MakeNetwork, batch: ImageArray, architecture: str
) -> None:
    network, path = make_network(architecture), tmp_path / "net.safetensors"
    save_network(path, network)
    back = load_network(path)
    assert back.spec == network.spec
    assert not back.training
    with torch.inference_mode():
        assert torch.equal(back(torch.from_numpy(batch))[0], network(torch.from_numpy(batch))[0])
    for key, tensor in network.state_dict().items():
        assert torch.equal(back.state_dict()[key], tensor), key


def test_spec_is_read_without_torch_when_a_process_has_none(checkpoint: Path) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'timm')))\n"
        "from pathlib import Path; from tritonkit.checkpoint import read_spec, read_weights\n"
        f"path = Path({str(checkpoint)!r}); print(read_spec(path).name, len(read_weights(path)) > 10)"
    )
    process = run_python("-c", code)
    assert (process.returncode, process.stdout) == (0, "pets True\n"), process.stderr


def test_old_checkpoint_stays_whole_when_the_disk_is_full_halfway(checkpoint: Path) -> None:
    before = checkpoint.read_bytes()
    code = (
        "import resource; from pathlib import Path; import numpy as np\n"
        "from tritonkit.checkpoint import read_spec, write_checkpoint\n"
        f"path = Path({str(checkpoint)!r}); spec = read_spec(path)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "write_checkpoint(path, spec, {'weight': np.zeros(5000)})"
    )
    process = run_python("-c", code)
    assert process.returncode == 1
    assert "File too large" in process.stderr
    assert checkpoint.read_bytes() == before
    assert list(checkpoint.parent.iterdir()) == [checkpoint]
