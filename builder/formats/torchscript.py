"""TorchScript, served by Triton's `pytorch` backend (LibTorch).

How that backend names tensors (triton-inference-server/pytorch_backend, src/pt/model_instance_state.cc,
`GetNamingConvention` and `Execute`):

- an input is named as an argument of `forward`, which here is `image`; uint8 is taken;
- the module answers one tensor or a tuple of tensors, and no dictionary;
- outputs named `<name>__<index>` stand for the tuple's item of that index. If any output has another name, all are
  taken in the order of `config.pbtxt`, under the names there. So the spec's own names are served as they are, in its
  order, and only names that look like indices, but of other places, cannot be served.

The trace is not frozen: the weights of a frozen module are constants of the graph, which cannot be moved to a GPU
(github.com/pytorch/pytorch, 57569).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from builder.formats.base import Format, Job
from model.errors import ArtifactError, InputError, first_line
from model.network import Network, on_cpu
from model.runners.base import Runner
from model.runners.torchscript import TorchScriptRunner
from model.spec import METADATA_KEY

_WRITTEN_BY_TORCH = ("version", ".data/serialization_id")
"""Records that the writer of an archive adds by itself."""


class TorchScript(Format):
    """The network's trace, with the spec as an extra file in the archive."""

    name = "torchscript"
    backend = "pytorch"
    artifact = "model.pt"
    casts = False

    def check_job(self, job: Job) -> None:
        _check_names([output.name for output in _network_of(job).spec.outputs])

    def write(self, job: Job) -> Path:
        network = _network_of(job)
        artifact = job.folder / self.artifact
        with on_cpu(network):  # until it is saved: a trace holds the network's own weights
            _save(_trace_network(network), network.spec.to_json(), artifact)
        return artifact

    def open_runner(self, artifact: Path, job: Job) -> Runner:
        return TorchScriptRunner(artifact)

    def proven_by(self, job: Job) -> str:
        return "the artifact itself, run by torch"


def _network_of(job: Job) -> Network:
    network = job.source.network
    if network is None:
        raise InputError(
            f"--torchscript: {job.source.path.name} is a graph, and TorchScript is traced from a torch network; "
            "export a checkpoint, or another format"
        )
    return network


def _trace_network(network: Network) -> torch.jit.ScriptModule:
    # An example batch of one could be taken for a constant.
    example = torch.zeros(2, *network.spec.input.shape, dtype=torch.uint8)
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        try:
            traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
        except Exception as error:  # networks fail in their own ways
            cause = first_line(error)
            raise ArtifactError(f"{network.spec.name}: torch cannot trace it: {cause}") from error
    assert isinstance(traced, torch.jit.ScriptModule)  # noqa: S101 - for mypy: a module is traced to a module
    return traced


def _save(module: torch.jit.ScriptModule, spec: str, artifact: Path) -> None:
    """Write the archive without its debugging records: stack traces with the paths of this machine."""
    whole = artifact.with_suffix(".whole")
    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            torch.jit.save(module, whole, _extra_files={METADATA_KEY: spec})
        archive = torch._C.PyTorchFileReader(str(whole))
        written = torch._C.PyTorchFileWriter(str(artifact))
        for name in archive.get_all_records():
            if not name.endswith(".debug_pkl") and name not in _WRITTEN_BY_TORCH:
                content = archive.get_record(name)
                written.write_record(name, content, len(content))
        written.write_end_of_file()
    finally:
        whole.unlink(missing_ok=True)


def _check_names(names: Sequence[str]) -> None:
    """Raise ArtifactError where the backend would take the outputs in another order than the spec's."""
    indices = [re.fullmatch(r".*?__(\d*)", name) for name in names]
    if all(indices) and [int(match[1] or 0) for match in indices if match] != list(range(len(names))):
        raise ArtifactError(
            f"outputs {', '.join(names)}: Triton's pytorch backend takes the number after __ for the output's place, "
            f"which is not so here; rename a head, or export --onnx"
        )
