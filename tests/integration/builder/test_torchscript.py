"""`--torchscript`: the trace accepts any batch, has the output names of the spec, and contains the spec."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from builder.formats import BuildJob, builder_for
from builder.pipeline import export
from builder.request import ExportRequest
from builder.sources import open_source
from builder.sources.base import NetworkSource
from tests.errors import raises
from tests.fixture_types import MakeNetwork, NetworkOf
from tests.programs import ROOT
from tritonkit.errors import ArtifactError, BatchError, InputError
from tritonkit.networks.network import Network
from tritonkit.runtimes import open_artifact
from tritonkit.runtimes.pytorch import TorchRunner
from tritonkit.runtimes.torchscript import TorchScriptRunner
from tritonkit.spec import METADATA_KEY, ModelSpec, TaskSpec

TORCHSCRIPT = builder_for("torchscript")


class GraphOnlySource(NetworkSource):
    """A source without a network, like that of an ONNX file."""

    @property
    def network(self) -> Network | None:
        return None


@pytest.fixture
def job_of(tmp_path: Path) -> Callable[[Network], BuildJob]:
    def make_job(network: Network) -> BuildJob:
        folder = tmp_path / "1"
        folder.mkdir(exist_ok=True)
        source = NetworkSource(tmp_path / "given.onnx", None, "a test", network)
        return BuildJob(source, tmp_path / "model.onnx", "fp32", folder, 8, None, lambda step: None)

    return make_job


def test_export_passes_and_contains_no_paths_of_this_machine(checkpoint: Path, tmp_path: Path) -> None:
    request = ExportRequest(source=checkpoint, repository=tmp_path / "repository", max_batch=4, torchscript=True)
    published = export(request)
    assert published.verdict.passed
    assert published.artifact.name == "model.pt"
    with zipfile.ZipFile(published.artifact) as archive:
        contents = b"".join(archive.read(name) for name in archive.namelist())
    for here in (tmp_path, ROOT, Path(torch.__file__).parent):
        assert str(here).encode() not in contents
    assert not list(published.artifact.parent.glob("*.whole"))


def test_published_file_is_opened_until_it_changes_or_leaves_its_manifest(checkpoint: Path, tmp_path: Path) -> None:
    request = ExportRequest(source=checkpoint, repository=tmp_path / "repository", max_batch=4, torchscript=True)
    artifact = export(request).artifact
    open_artifact(artifact).close()
    moved = tmp_path / "model.pt"
    shutil.copy(artifact, moved)
    with raises(ArtifactError, "torchscript.untrusted"):
        open_artifact(moved)
    content = bytearray(artifact.read_bytes())
    content[len(content) // 2] ^= 1
    artifact.write_bytes(content)
    with raises(ArtifactError, "torchscript.changed"):
        open_artifact(artifact)


def test_archive_is_refused_as_a_source_with_what_to_pass_instead(
    make_network: MakeNetwork, job_of: Callable[[Network], BuildJob], tmp_path: Path
) -> None:
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "given.pt")
    with raises(InputError, "source.torchscript", "--model NAME"):
        open_source(tmp_path / "given.pt", None, None)
    with raises(InputError, "source.exported"):
        open_source(TORCHSCRIPT.write(job_of(make_network("test_vit"))), None, None)


def test_runner_gives_one_error_when_answers_are_not_those_of_the_spec(spec: ModelSpec, tmp_path: Path) -> None:
    class Pair(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x

    path = tmp_path / "pair.pt"
    torch.jit.save(torch.jit.script(Pair()), path, _extra_files={METADATA_KEY: spec.to_json()})
    with raises(ArtifactError, "artifact.tensor_mismatch"):
        TorchScriptRunner(path, trusted=True).infer(np.zeros((1, *spec.input.shape), np.uint8))


@pytest.mark.parametrize(
    "task_spec",
    [
        TaskSpec(task="segmentation", labels=("back", "front"), probability=True),
        TaskSpec(task="embedding", embedding_size=8),
        TaskSpec(
            task="heads",
            heads={
                "colour__1": TaskSpec(task="multiclass", labels=("red", "blue")),
                "marks": TaskSpec(task="multilabel", labels=("dot", "line", "edge")),
            },
        ),
    ],
    ids=lambda task_spec: task_spec.task,
)
def test_outputs_equal_those_of_the_network_under_the_names_of_the_spec(
    network_of: NetworkOf, job_of: Callable[[Network], BuildJob], task_spec: TaskSpec
) -> None:
    network = network_of(task_spec)
    artifact = TORCHSCRIPT.write(job_of(network))
    reference = TorchRunner(network, "network")
    images = np.random.default_rng(0).integers(0, 256, (7, *network.spec.input.shape), dtype=np.uint8)
    with TorchScriptRunner(artifact, trusted=True) as runner:
        assert runner.spec == network.spec
        for batch in (images[:1], images[:3], images):
            answers, expected = runner.infer(batch), reference.infer(batch)
            assert list(answers) == list(expected)
            for name, array in expected.items():
                np.testing.assert_allclose(answers[name], array, atol=1e-5)
        with ThreadPoolExecutor(4) as pool:
            single_answers = list(pool.map(lambda i: runner.infer(images[i : i + 1]), range(7)))
        with pytest.raises(BatchError, match="expected uint8"):
            runner.infer(images[:, :-1])
    for name, array in expected.items():
        np.testing.assert_allclose([answer[name][0] for answer in single_answers], array, atol=1e-5)


def test_forward_takes_the_input_and_returns_a_tuple(
    make_network: MakeNetwork, job_of: Callable[[Network], BuildJob]
) -> None:
    """Triton's pytorch backend accepts no dictionary, and takes input names from `forward`."""
    module = torch.jit.load(TORCHSCRIPT.write(job_of(make_network("test_vit"))))
    schema = module.forward.schema
    assert [argument.name for argument in schema.arguments] == ["self", "image"]
    assert str(schema.returns[0].type).startswith("Tuple[Tensor")


def test_source_without_a_network_is_refused_before_the_export(make_network: MakeNetwork, tmp_path: Path) -> None:
    graph = GraphOnlySource(tmp_path / "user.onnx", None, "a test", make_network("test_resnet"))
    steps: list[str] = []
    request = ExportRequest(source=graph, repository=tmp_path / "repository", max_batch=4, torchscript=True)
    with raises(InputError, "torchscript.no_network", "user.onnx"):
        export(request, steps.append)
    assert not steps


def test_output_names_that_triton_reads_as_other_positions_are_refused(
    network_of: NetworkOf, job_of: Callable[[Network], BuildJob]
) -> None:
    heads = {name: TaskSpec(task="multiclass", labels=("a", "b")) for name in ("second__1", "first__0")}
    with raises(ArtifactError, "torchscript.output_names"):
        TORCHSCRIPT.check_job(job_of(network_of(TaskSpec(task="heads", heads=heads))))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text", "torchscript.unreadable"),
        ("weights", "torchscript.unreadable"),
        ("module", "artifact.no_spec"),
    ],
)
def test_file_that_tritonkit_did_not_write_gives_one_error(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "some.pt"
    if content == "text":
        path.write_text("not an archive")
    elif content == "weights":
        torch.save({"weight": torch.zeros(1)}, path)
    else:
        torch.jit.save(torch.jit.script(torch.nn.ReLU()), path)
    with raises(ArtifactError, "torchscript.untrusted"):
        open_artifact(path)
    with raises(ArtifactError, expected) as caught:
        TorchScriptRunner(path, trusted=True)
    assert len(str(caught.value).splitlines()) == 1
