"""Run an ONNX file in process with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import onnxruntime

from model.errors import ArtifactError
from model.preprocess import ImageArray
from model.runners.base import Outputs, Runner
from model.spec import METADATA_KEY, ModelSpec


class OnnxRuntimeRunner(Runner):
    """An ONNX graph on the CPU, or on the GPU where onnxruntime-gpu sees one."""

    def __init__(self, path: Path, threads: int = 0, spec: ModelSpec | None = None, spinning: bool = True) -> None:
        """Open `path`; the spec is read from the file's own metadata unless given.

        spinning: idle threads wait busily, which answers sooner, and takes the cores from whoever else computes.

        Raises ArtifactError when ONNX Runtime refuses the file or no spec is known.
        """
        self.origin = str(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if not spinning:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_mem_pattern = False  # its planned block comes on top of what the arena already holds
        # Without TF32, as the checkpoint is run: its rounding is larger than what a verdict allows.
        wanted: tuple[tuple[str, dict[str, str]], ...] = (
            ("CUDAExecutionProvider", {"use_tf32": "0"}),
            ("CPUExecutionProvider", {}),
        )
        providers = [choice for choice in wanted if choice[0] in onnxruntime.get_available_providers()]
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # its errors share no base class
            raise ArtifactError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        self.on_gpu = self.session.get_providers()[0] != "CPUExecutionProvider"
        self.spec = spec or self._read_spec()

    def _read_spec(self) -> ModelSpec:
        metadata = self.session.get_modelmeta().custom_metadata_map
        if METADATA_KEY not in metadata:
            raise ArtifactError(f"{self.origin}: carries no model spec, so it was not written by `builder export`")
        return ModelSpec.from_json(metadata[METADATA_KEY], origin=self.origin)

    def _infer(self, batch: ImageArray) -> Outputs:
        names = [output.name for output in self.session.get_outputs()]
        try:
            answers = self.session.run(names, {self.session.get_inputs()[0].name: batch})
        except Exception as error:  # as above
            raise ArtifactError(f"{self.origin}: failed on a batch of {len(batch)}: {error}") from error
        return dict(zip(names, answers, strict=True))
