"""Run an ONNX file in this process with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import onnxruntime

from tritonkit.errors import ArtifactError
from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes.base import Runner, spec_of_artifact
from tritonkit.spec import METADATA_KEY, ModelSpec, Outputs


class OnnxRuntimeRunner(Runner):
    """Runs an ONNX graph on the CPU, or on the GPU if onnxruntime-gpu finds one."""

    def __init__(
        self,
        path: Path,
        threads: int = 0,
        spec: ModelSpec | None = None,
        spinning: bool = True,
        graph: bytes | None = None,
    ) -> None:
        """Open an ONNX file; without `spec`, read the spec from the file's metadata.

        graph: the graph itself, where the file holds it as one of several parts.
        spinning: idle threads busy-wait, and the memory of a batch is kept for the next. This lowers latency but takes
        CPU time and memory from other work.

        Raises ArtifactError if ONNX Runtime rejects the file or the file has no spec.
        """
        self.origin = str(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._run_options = onnxruntime.RunOptions()
        if not spinning:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        options.enable_mem_pattern = False  # it would allocate a block in addition to the arena
        # Without TF32, like the checkpoint: its rounding error exceeds the limits of a verdict.
        known_providers: tuple[tuple[str, dict[str, str]], ...] = (
            ("CUDAExecutionProvider", {"use_tf32": "0"}),
            ("CPUExecutionProvider", {}),
        )
        providers = [choice for choice in known_providers if choice[0] in onnxruntime.get_available_providers()]
        try:
            self.session = onnxruntime.InferenceSession(graph or path, options, providers=providers)
        except Exception as error:  # its errors share no base class
            raise ArtifactError(f"{path}: ONNX Runtime cannot load it: {error}", code="onnx.unreadable") from error
        self.is_on_gpu = self.session.get_providers()[0] != "CPUExecutionProvider"
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.spec = spec or spec_of_artifact(metadata.get(METADATA_KEY), self.origin)

    def _infer(self, batch: ImageArray) -> Outputs:
        names = [output.name for output in self.session.get_outputs()]
        try:
            answers = self.session.run(names, {self.session.get_inputs()[0].name: batch}, self._run_options)
        except Exception as error:
            raise self._failed_error(batch, error) from error
        return dict(zip(names, answers, strict=True))
