"""TorchScript, served by Triton's `pytorch` backend (LibTorch).

How that backend names tensors (triton-inference-server/pytorch_backend, src/pt/model_instance_state.cc,
`GetNamingConvention` and `Execute`):

- an input has the name of an argument of `forward`, here `image`; it may be uint8;
- the module returns one tensor or a tuple of tensors, not a dictionary;
- an output named `<name>__<index>` is the item of that index in the tuple. If any output has another kind of name, all
  are taken in the order of `config.pbtxt`. So the names of the spec work in its order, except names that end in an
  index of another item.

The trace is not frozen: the weights of a frozen module are constants of the graph and cannot be moved to a GPU
(github.com/pytorch/pytorch, 57569).
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import torch

from builder.formats.base import ArtifactBuilder, BuildJob
from tritonkit.errors import ArtifactError, InputError, first_line
from tritonkit.networks.network import Network, on_cpu
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import TORCHSCRIPT
from tritonkit.runtimes.torchscript import TorchScriptRunner
from tritonkit.spec import METADATA_KEY

_WRITTEN_BY_TORCH = ("version", ".data/serialization_id")
"""Records that torch's archive writer adds itself."""


class TorchScript(ArtifactBuilder):
    """A trace of the network, with the spec as an extra file in the archive."""

    format = TORCHSCRIPT

    def check_job(self, job: BuildJob) -> None:
        names = [output.name for output in _network_of(job).spec.outputs]
        indices = [re.fullmatch(r".*?__(\d*)", name) for name in names]
        if all(indices) and [int(match[1] or 0) for match in indices if match] != list(range(len(names))):
            raise ArtifactError(
                f"outputs {', '.join(names)}: Triton's pytorch backend reads the number after __ as the position of "
                "the output, and these numbers are other positions; rename a head, or export --onnx",
                code="torchscript.output_names",
            )

    def write(self, job: BuildJob) -> Path:
        """Trace the network and save it without debug records: they contain stack traces with paths of this machine."""
        network = _network_of(job)
        artifact = job.folder / self.format.file
        full = artifact.with_suffix(".whole")
        # The tracer could treat a batch of one as a constant.
        example = torch.zeros(2, *network.spec.input.shape, dtype=torch.uint8)
        # On the CPU until the file is saved: a trace shares the weights of the network.
        with on_cpu(network), warnings.catch_warnings(action="ignore"):
            try:
                with torch.no_grad():
                    traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
            except Exception as error:  # the network's code may raise anything
                raise ArtifactError(
                    f"{network.spec.name}: torch cannot trace it: {first_line(error)}", code="torchscript.trace"
                ) from error
            try:
                torch.jit.save(traced, full, _extra_files={METADATA_KEY: network.spec.to_json()})
                archive = torch._C.PyTorchFileReader(str(full))
                writer = torch._C.PyTorchFileWriter(str(artifact))
                for name in archive.get_all_records():
                    if not name.endswith(".debug_pkl") and name not in _WRITTEN_BY_TORCH:
                        content = archive.get_record(name)
                        writer.write_record(name, content, len(content))
                writer.write_end_of_file()
            finally:
                full.unlink(missing_ok=True)
        return artifact

    def open_runner(self, artifact: Path, job: BuildJob) -> Runner:
        return TorchScriptRunner(artifact, trusted=True)

    def verification_method(self, job: BuildJob) -> str:
        return "the artifact itself, run by torch"


def _network_of(job: BuildJob) -> Network:
    network = job.source.network
    if network is None:
        raise InputError(
            f"--torchscript: {job.source.path.name} is a graph, but TorchScript is traced from a torch network; "
            "export a checkpoint, or another format",
            code="torchscript.no_network",
        )
    return network
