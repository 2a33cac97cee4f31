"""Run a checkpoint in this process with PyTorch. Its outputs are the reference that artifacts are verified against."""

from __future__ import annotations

from pathlib import Path

import torch

from tritonkit.images.preprocess import ImageArray
from tritonkit.networks.network import Network, load_network
from tritonkit.runtimes.base import Runner
from tritonkit.spec import Outputs


class TorchRunner(Runner):
    """Runs a network on the CPU, or on the GPU if torch finds one."""

    def __init__(self, network: Network, origin: str) -> None:
        self.spec = network.spec
        self.origin = origin
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # The reference needs full fp32 precision; TF32, the default for convolutions on a GPU, has less.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self._network = network.eval().to(self._device)

    @classmethod
    def from_checkpoint(cls, path: Path, threads: int = 0) -> TorchRunner:
        """Open a checkpoint. Raises CheckpointError, SpecError."""
        if threads:
            torch.set_num_threads(threads)
        return cls(load_network(path), origin=str(path))

    def _infer(self, batch: ImageArray) -> Outputs:
        with torch.inference_mode():
            answers = self._network(torch.from_numpy(batch).to(self._device))
        names = [output.name for output in self.spec.outputs]
        return {name: answer.cpu().numpy() for name, answer in zip(names, answers, strict=True)}
