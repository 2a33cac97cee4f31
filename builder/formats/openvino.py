"""OpenVINO, served on the CPU by Triton's `openvino` backend.

NVIDIA's backend (triton-inference-server/openvino_backend, src/openvino.cc and README.md):

- fixes the batch axis to `max_batch_size` and refuses smaller batches, unless `ENABLE_BATCH_PADDING` is YES: then it
  pads each batch and always computes the largest one. A small `--max-batch` wastes least;
- computes in bf16 where `HINT_BF16` is YES. No parameter selects f32, so a CPU with bf16 runs every file in bf16.

tritonkit's own backend (`server/backends/openvino`) takes any batch, and runs a file in the precision stored in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from builder.failures import CannotBuildError
from builder.formats.base import ArtifactBuilder, BuildJob
from tritonkit.errors import ArtifactError
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import OPENVINO, Precision, model_files
from tritonkit.spec import METADATA_KEY

_TYPES: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""By precision, OpenVINO's name of the type of all that is not quantised."""

_BF16_ADVICE = "Export on a CPU that has bf16 (avx512_bf16 or amx_bf16 in /proc/cpuinfo), or export --openvino fp32"


class OpenVino(ArtifactBuilder):
    """`model.xml` and `model.bin`, which contain the spec and the precision."""

    format = OPENVINO

    def check_machine(self) -> None:
        if find_spec("openvino") is None:
            raise ArtifactError(
                "--openvino needs OpenVINO; install it with: pip install 'tritonkit[openvino]'",
                code="install.missing_module",
            )

    def check_job(self, job: BuildJob) -> None:
        from tritonkit.runtimes.openvino import has_bf16

        if job.precision == "bf16" and not has_bf16():
            raise CannotBuildError(
                f"--openvino bf16: this CPU does not support bf16. {_BF16_ADVICE}", code="openvino.bf16_unsupported"
            )

    def write(self, job: BuildJob) -> Path:
        import openvino

        from tritonkit.runtimes.openvino import PRECISION_KEY, get_core

        artifact = job.folder / self.format.file
        for stale in model_files(artifact):
            stale.unlink(missing_ok=True)  # a runner of an earlier attempt may have the old file mapped
        try:
            model = get_core().read_model(job.graph)
            if model.has_rt_info(["framework"]):
                del model.rt_info["framework"]  # the ONNX metadata, which repeats the spec
            model.set_rt_info(_TYPES[job.precision], PRECISION_KEY)
            model.set_rt_info(job.source.spec.to_json(), [METADATA_KEY])
            openvino.save_model(model, artifact, compress_to_fp16=False)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise CannotBuildError(
                f"{job.source.spec.name}: OpenVINO cannot convert the graph: {reason}", code="openvino.convert"
            ) from error
        return artifact

    def open_runner(self, artifact: Path, job: BuildJob) -> Runner:
        from tritonkit.runtimes.openvino import OpenVinoRunner

        runner = OpenVinoRunner(artifact)
        expected = _TYPES[job.precision]
        if runner.precision != expected:
            raise CannotBuildError(
                f"{artifact.name}: expected {expected}, but OpenVINO runs it in {runner.precision} on this CPU, so a "
                "verdict would be about another precision. "
                f"{_BF16_ADVICE if job.precision == 'bf16' else 'Export --openvino fp32'}",
                code="openvino.other_precision",
            )
        return runner

    def verification_method(self, job: BuildJob) -> str:
        own = f"the artifact itself, run by OpenVINO in {_TYPES[job.precision]}"
        if job.precision == "bf16":
            return own
        return f"{own}; NVIDIA's openvino backend has no setting for it, and uses bf16 on a CPU that has it"

    def parameters(self, job: BuildJob) -> Mapping[str, str]:
        hint = {"HINT_BF16": "YES"} if job.precision == "bf16" else {}
        return {"ENABLE_BATCH_PADDING": "YES", **hint}
