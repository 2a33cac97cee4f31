"""Calibrate networks with random weights to behave like trained ones: signals keep their scale and answers vary.

A network with the initial weights of its library gives nearly the same answer for each image, so errors are invisible.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from builder.sources.images import builtin_golden
from tritonkit.images.preprocess import ImageArray
from tritonkit.networks.backbones import architecture_of, head_of, timm_name, timm_normalize, timm_preprocess
from tritonkit.networks.network import Network
from tritonkit.spec import ModelSpec, TaskSpec, image_input
from tritonkit.tasks import task_for

CLASSES = 100
SPREAD = 2.0
"""Standard deviation of each logit over the images, like that of a classifier with confident answers."""
LINEAR = 1.0
"""Bias of each norm, which keeps most units in the linear range. A deep network of random norms and
rectifiers at 0 is chaotic, as no trained one is: it makes a rounding in its first layer as large as an answer."""
_NORMS = (nn.BatchNorm2d, nn.BatchNorm1d)


def calibrated_network(name: str) -> Network:
    """Create a timm network at its default size with calibrated weights and a hundred classes. Raises SpecError."""
    torch.manual_seed(0)
    preprocess = timm_preprocess(name)
    task_spec = TaskSpec(task="multiclass", labels=tuple(f"class {number}" for number in range(CLASSES)))
    spec = ModelSpec(
        name=timm_name(name),
        **task_spec.model_dump(),
        architecture=architecture_of(name, preprocess.height, preprocess.width),
        input=image_input(preprocess),
        outputs=task_for(task_spec).outputs(image_input(preprocess)),
        preprocess=preprocess,
        normalize=timm_normalize(name),
    )
    return calibrate(Network(spec).eval(), builtin_golden(preprocess).images)


def calibrate(network: Network, images: ImageArray) -> Network:
    """Fit batch-norm statistics and the last layer to uint8 images [N, H, W, 3], N of 4 or more; in place."""
    with torch.no_grad():
        # Raise norms and layer scales near 0: they switch residual branches off in an untrained network.
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1 and name.endswith(("weight", "gamma", "gamma_1", "gamma_2", "layer_scale.scale")):
                parameter[parameter.abs() < 0.1] = 0.5
        _fit_norms(network, images)
        heads = head_of(network.backbone).modules()
        for layer in [module for module in heads if isinstance(module, nn.Linear | nn.Conv2d)][-1:]:
            _fit_logits(network, layer, images)
    return network.eval()


def _fit_norms(network: Network, images: ImageArray) -> None:
    network.eval()
    norms = [module for module in network.modules() if isinstance(module, _NORMS)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.bias.fill_(LINEAR)
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # the mean over all batches
    network.logits(torch.from_numpy(images))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def _fit_logits(network: Network, layer: nn.Linear | nn.Conv2d, images: ImageArray) -> None:
    captured: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: captured.append(output))
    network.logits(torch.from_numpy(images))
    handle.remove()
    output = captured[0].movedim(1, -1) if isinstance(layer, nn.Conv2d) else captured[0]
    values = output.reshape(-1, output.shape[-1])
    gain = SPREAD / values.std(dim=0).mean().clamp(min=1e-6)
    layer.weight.mul_(gain)
    if layer.bias is not None:
        layer.bias.copy_((layer.bias - values.mean(dim=0)) * gain)
