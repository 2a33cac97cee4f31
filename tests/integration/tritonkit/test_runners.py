"""The runners: one interface, the same outputs, and errors for a batch or file that does not fit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests.errors import raises
from tests.fixture_types import MakeNetwork
from tests.programs import run_python
from tritonkit.errors import ArtifactError, BatchError, CheckpointError, InputError
from tritonkit.images.preprocess import ImageArray
from tritonkit.networks.network import Network, save_network
from tritonkit.runtimes import Runner, open_artifact
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner
from tritonkit.runtimes.pytorch import TorchRunner
from tritonkit.spec import METADATA_KEY, ModelSpec

SUFFIXES = (".safetensors", ".onnx")


def exported(network: Network, path: Path) -> None:
    """Export the network's graph to ONNX, with its spec in the file's metadata."""
    example = torch.zeros(2, *network.spec.input.shape, dtype=torch.uint8)
    names = {"input_names": ["image"], "output_names": ["probabilities"]}
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            network, (example,), path, dynamo=False, dynamic_axes={"image": [0], "probabilities": [0]}, **names
        )
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, {METADATA_KEY: network.spec.to_json()})
    onnx.save(graph, path)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory, make_network: MakeNetwork) -> Path:
    """The same network as a checkpoint and as an ONNX file, by architecture."""
    folder = tmp_path_factory.mktemp("artifacts")
    for architecture in ("test_resnet", "test_vit"):
        network = make_network(architecture)
        save_network(folder / f"{architecture}.safetensors", network)
        exported(network, folder / f"{architecture}.onnx")
    return folder


@pytest.fixture(params=SUFFIXES)
def runner(request: pytest.FixtureRequest, artifacts: Path) -> Iterator[Runner]:
    with open_artifact(artifacts / f"test_resnet{request.param}") as opened:
        yield opened


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_runners_agree_when_they_run_the_same_network(
    artifacts: Path, batch: ImageArray, architecture: str, size: int
) -> None:
    paths = [artifacts / f"{architecture}{suffix}" for suffix in SUFFIXES]
    expected, actual = (open_artifact(path).infer(batch[:size]) for path in paths)
    assert expected.keys() == actual.keys() == {"probabilities"}
    assert expected["probabilities"].dtype == actual["probabilities"].dtype == np.float32
    assert expected["probabilities"].shape == (size, 3)
    assert np.allclose(expected["probabilities"], actual["probabilities"], atol=1e-5)


def test_runner_knows_its_spec_when_opened(runner: Runner, spec: ModelSpec) -> None:
    assert runner.spec == spec
    assert "test_resnet." in runner.origin


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 32, 32, 3), "float32"),
        ((2, 32, 32, 3), "int8"),
        ((2, 3, 32, 32), "uint8"),
        ((2, 64, 32, 3), "uint8"),
        ((32, 32, 3), "uint8"),
        ((0, 32, 32, 3), "uint8"),
        ((), "uint8"),
    ],
    ids=str,
)
def test_runner_says_what_it_takes_when_the_batch_does_not_fit(
    runner: Runner, shape: tuple[int, ...], dtype: str
) -> None:
    with raises(BatchError, "batch.shape", "uint8 [N, 32, 32, 3]", f"got {dtype} {list(shape)}", runner.origin):
        runner.infer(np.zeros(shape, dtype=dtype))


def test_runner_answers_alike_when_the_batch_is_a_view_or_read_only(runner: Runner, batch: ImageArray) -> None:
    mirrored = batch[:, :, ::-1]
    frozen = mirrored.copy()
    frozen.flags.writeable = False
    expected = runner.infer(mirrored.copy())["probabilities"]
    assert np.array_equal(runner.infer(mirrored)["probabilities"], expected)
    assert np.array_equal(runner.infer(frozen)["probabilities"], expected)


def test_runner_answers_alike_when_called_from_several_threads(runner: Runner, batch: ImageArray) -> None:
    expected = [runner.infer(batch[i : i + 1])["probabilities"] for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda i: runner.infer(batch[i % 4 : i % 4 + 1])["probabilities"], range(32)))
    assert all(np.array_equal(answer, expected[i % 4]) for i, answer in enumerate(answers))


def test_torch_runner_uses_the_number_of_threads(artifacts: Path, restored_threads: None) -> None:
    torch.set_num_threads(2)
    open_artifact(artifacts / "test_resnet.safetensors", threads=0)
    assert torch.get_num_threads() == 2
    open_artifact(artifacts / "test_resnet.safetensors", threads=1)
    assert torch.get_num_threads() == 1


def test_onnx_runner_uses_the_number_of_threads(artifacts: Path) -> None:
    runner = OnnxRuntimeRunner(artifacts / "test_resnet.onnx", threads=2)
    assert runner.session.get_session_options().intra_op_num_threads == 2


def test_torch_runner_infers_when_the_network_was_training(make_network: MakeNetwork, batch: ImageArray) -> None:
    network = make_network("test_resnet")
    expected = TorchRunner(network, "here").infer(batch)["probabilities"]
    assert np.array_equal(TorchRunner(network.train(), "here").infer(batch)["probabilities"], expected)


@pytest.mark.parametrize("name", ["model.pth", "model.bin", "model", "model.onnx.zip"])
def test_open_names_what_it_knows_when_the_suffix_is_unknown(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with raises(ArtifactError, "artifact.unknown_suffix", ".safetensors, .onnx"):
        open_artifact(tmp_path / name)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_open_says_so_when_there_is_no_such_file(tmp_path: Path, suffix: str) -> None:
    with raises(InputError, "artifact.not_found", f"absent{suffix}"):
        open_artifact(tmp_path / f"absent{suffix}")


@pytest.mark.parametrize(("suffix", "error"), [(".onnx", ArtifactError), (".safetensors", CheckpointError)])
@pytest.mark.parametrize("content", [b"", b"no model", bytes(100)], ids=["empty", "text", "zeros"])
def test_open_names_the_file_when_it_is_broken(
    tmp_path: Path, suffix: str, error: type[Exception], content: bytes
) -> None:
    (tmp_path / f"broken{suffix}").write_bytes(content)
    with pytest.raises(error, match=rf"broken\{suffix}"):
        open_artifact(tmp_path / f"broken{suffix}")


def test_open_refuses_when_an_onnx_file_is_cut_short(tmp_path: Path, artifacts: Path) -> None:
    whole = (artifacts / "test_resnet.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with raises(ArtifactError, "onnx.unreadable", "cut.onnx"):
        open_artifact(tmp_path / "cut.onnx")


def test_onnx_runner_needs_a_spec_when_the_file_has_none(
    tmp_path: Path, artifacts: Path, spec: ModelSpec, batch: ImageArray
) -> None:
    graph = onnx.load(artifacts / "test_resnet.onnx")
    graph.ClearField("metadata_props")
    onnx.save(graph, tmp_path / "bare.onnx")
    with raises(ArtifactError, "artifact.no_spec", "bare.onnx"):
        open_artifact(tmp_path / "bare.onnx")
    assert OnnxRuntimeRunner(tmp_path / "bare.onnx", spec=spec).infer(batch)["probabilities"].shape == (4, 3)


@pytest.mark.parametrize(("suffix", "library"), [(".safetensors", "torch"), (".onnx", "onnxruntime")])
def test_open_says_what_to_install_when_a_library_is_missing(artifacts: Path, suffix: str, library: str) -> None:
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "from pathlib import Path\n"
        "from tritonkit.errors import ArtifactError; from tritonkit.runtimes import open_artifact\n"
        f"try: open_artifact(Path({str(artifacts / f'test_resnet{suffix}')!r}))\n"
        "except ArtifactError as error: print(error.code, error)"
    )
    process = run_python("-c", code)
    assert process.stdout.startswith("artifact.missing_library "), process.stderr
    assert f"needs {library}; install it with: pip install" in process.stdout
