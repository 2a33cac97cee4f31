"""Fake quantization: computes with values rounded to int8 during the training, so that the weights adapt to it.

The rounding is that of `builder export --onnx int8`: weights by output channel, symmetric; activations by tensor. All
weights stay in fp32 under their own names, so the checkpoint is a normal one, and the builder calibrates it again.
Rounding before a batch norm equals rounding after it is folded into the weights, because it scales by channel too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from train.config.sections import QuantizationConfig
from tritonkit.images.preprocess import ImageArray
from tritonkit.networks.network import load_network
from tritonkit.runtimes.pytorch import TorchRunner
from tritonkit.spec import Outputs

_SCHEMES: dict[str, dict[str, Any]] = {
    "uint8": {"quant_min": 0, "quant_max": 255, "dtype": torch.quint8, "qscheme": torch.per_tensor_affine},
    "int8": {"quant_min": -128, "quant_max": 127, "dtype": torch.qint8, "qscheme": torch.per_tensor_symmetric},
}
_CHANNEL_AXIS: dict[Callable[..., Tensor], int] = {F.linear: 0, F.conv1d: 0, F.conv2d: 0, F.conv_transpose2d: 1}
"""The functions that are computed in int8, with the axis of the weight that has a scale for each index."""


class FakeQuantizer(TorchFunctionMode):
    """While active, rounds the inputs, weights and outputs of a network's convolutions and linear layers to int8."""

    def __init__(self, network: nn.Module, config: QuantizationConfig) -> None:
        super().__init__()
        self._names = {parameter: name for name, parameter in network.named_parameters()}
        self._scheme = _SCHEMES[config.activations]
        self._without_bias: tuple[Tensor | None, str] = (None, "")
        self.ranges: dict[str, FakeQuantize] = {}
        """The rounding of each activation, by the name of its layer's weight and `input` or `output`."""
        self.is_observing = True
        """Whether the ranges follow the values, as a moving average of the smallest and the largest of each batch."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        product, name = self._without_bias
        if func is F.batch_norm and args[0] is product:
            self._without_bias = (None, "")
            return self._round(func(*args, **kwargs), f"{name}.output")
        axis = _CHANNEL_AXIS.get(func)
        if axis is None or (name := self._names.get(args[1], "")) == "":
            return func(*args, **kwargs)
        activation, weight, *others = args
        product = func(self._round(activation, f"{name}.input"), round_weight(weight, axis), *others, **kwargs)
        if (others[0] if others else kwargs.get("bias")) is not None:
            return self._round(product, f"{name}.output")
        # A batch norm follows, which the exporter folds into the layer, so its result is the layer's output.
        self._without_bias = (product, name)
        return product

    def _round(self, values: Tensor, name: str) -> Tensor:
        if name not in self.ranges:
            self.add_range(name)
        quantize = self.ranges[name].to(values.device)
        quantize.enable_observer(self.is_observing)
        rounded: Tensor = quantize(values.float())
        return rounded

    def add_range(self, name: str) -> FakeQuantize:
        """Create the rounding of an activation, without a range yet."""
        self.ranges[name] = FakeQuantize(MovingAverageMinMaxObserver, **self._scheme)  # type: ignore[no-untyped-call]
        return self.ranges[name]


def round_weight(weight: Tensor, axis: int) -> Tensor:
    """Round a weight to the 255 steps of symmetric int8 with a scale by channel; gradients pass unchanged."""
    largest = weight.detach().float().abs().transpose(0, axis).flatten(1).amax(1)
    scale = (largest / 127).clamp(min=torch.finfo(torch.float32).eps)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight.float(), scale, zero, axis, -127, 127)


class QuantizationAware(Callback):
    """Trains and validates with fake quantization. Batch norm keeps its statistics, as in the exported graph."""

    def __init__(self, config: QuantizationConfig) -> None:
        self.config = config
        self._active = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        network: nn.Module = pl_module.network  # type: ignore[assignment]
        self.quantizer = FakeQuantizer(network, self.config)
        self._batch_norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]

    def on_train_batch_start(self, *_: Any) -> None:
        for module in self._batch_norms:  # at each batch: the module's own hook at an epoch's start comes after ours
            module.eval()
        self.quantizer.is_observing = True
        self._active.enter_context(self.quantizer)

    def on_validation_batch_start(self, *_: Any) -> None:
        self.quantizer.is_observing = False
        self._active.enter_context(self.quantizer)

    def on_train_batch_end(self, *_: Any) -> None:
        self._active.close()

    def on_validation_batch_end(self, *_: Any) -> None:
        self._active.close()

    def on_exception(self, *_: Any) -> None:
        self._active.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the ranges of the activations, from which a resumed run continues."""
        return {name: dict(quantize.state_dict()) for name, quantize in self.quantizer.ranges.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, values in state_dict.items():
            self.quantizer.add_range(name).load_state_dict(values)


class Int8Simulation(TorchRunner):
    """Runs a checkpoint with fake quantization, calibrated on images, as a stand-in for its int8 artifacts."""

    def __init__(self, checkpoint: Path, config: QuantizationConfig, images: ImageArray) -> None:
        """images: uint8 [N, H, W, 3], to calibrate on. Raises CheckpointError, SpecError."""
        network = load_network(checkpoint)
        super().__init__(network, origin=f"{checkpoint} in int8")
        self._quantizer = FakeQuantizer(network, config)
        self._infer(images)
        self._quantizer.is_observing = False

    def _infer(self, batch: ImageArray) -> Outputs:
        with self._quantizer:
            return super()._infer(batch)
