"""Export a state dict of each of ten torchvision families, and compare the artifact with torchvision's own network.

Weights are random and calibrated on photographs. Stored results of the same versions are kept. Exits with 1 if a
verdict fails, or if an output of the ONNX file differs by more than 1e-5.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn
from torchvision.models import get_model, get_model_weights

from benchmarks.studies.calibration import calibrate
from benchmarks.studies.study import Result, command, for_each_model, write_json
from builder.pipeline import export
from builder.request import ExportRequest
from builder.sources.images import builtin_golden
from builder.sources.state_dict import network_spec
from scripts.package_versions import installed_versions
from tritonkit.export_options import ForeignModelOptions
from tritonkit.networks.backbones import head_of
from tritonkit.networks.network import Network
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner
from tritonkit.spec import TaskSpec

FAMILIES = (
    *("mobilenet_v3_small", "regnet_y_400mf", "convnext_tiny", "swin_t", "vgg11", "efficientnet_v2_s"),
    *("mnasnet0_5", "shufflenet_v2_x0_5", "googlenet", "vit_b_32"),
)
CLASSES = tuple(f"class {number}" for number in range(10))
LIMIT = 1e-5
TOOLS = ("torch", "torchvision", "onnx", "onnxruntime")


def torchvision_network(name: str) -> nn.Module:
    """Return torchvision's own network with calibrated weights."""
    torch.manual_seed(0)
    task_spec = TaskSpec(task="multiclass", labels=CLASSES)
    tritonkit_network = Network(network_spec(f"torchvision/{name}", task_spec, ForeignModelOptions()))
    head: Any = head_of(tritonkit_network.backbone)
    if not head.weight.any():  # torchvision initializes the head of a ViT with zeros
        nn.init.normal_(head.weight)
    state = calibrate(tritonkit_network, builtin_golden(tritonkit_network.spec.preprocess).images).backbone.state_dict()
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    network: nn.Module = get_model(name, weights=None, num_classes=len(CLASSES), **options)
    network.load_state_dict(state)
    return network.eval()


def check_model(name: str, folder: Path) -> dict[str, Any]:
    """Export a state dict; return whether the verdict passed, and the largest error against torchvision's network."""
    network = torchvision_network(name)
    weights, labels = folder / f"{name}.pth", folder / "labels.txt"
    torch.save(network.state_dict(), weights)
    labels.write_text("\n".join(CLASSES), encoding="utf-8")
    published = export(
        ExportRequest(
            source=weights, model=f"torchvision/{name}", labels=labels, repository=folder / "repository", max_batch=2
        )
    )
    with OnnxRuntimeRunner(published.artifact) as runner:
        images = np.random.default_rng(0).integers(0, 256, (2, *runner.spec.input.shape), np.uint8)
        answers = runner.infer(images)["probabilities"]
    transforms = get_model_weights(name).DEFAULT.transforms()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (transforms.mean, transforms.std))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        expected = network((pixels - mean) / std).softmax(dim=1).numpy()
    error = float(np.abs(answers - expected).max())
    return {"passed": published.verdict.passed, "max_abs": error, "source": published.source}


def measure(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...")] = None,
    results: Path = Path("benchmarks/results/torchvision_models.json"),
) -> Result:
    """Check each network without a result of these versions, and write the results after each."""
    versions = installed_versions(TOOLS)[0]
    stored = json.loads(results.read_bytes()) if results.is_file() else {}
    networks: dict[str, dict[str, Any]] = stored["networks"] if stored.get("versions") == versions else {}
    missing = [name for name in names or FAMILIES if name not in networks]
    for name, result in for_each_model(missing, check_model, "checking torchvision's networks"):
        networks[name] = result
        write_json(results, {"versions": versions, "limit": LIMIT, "networks": networks})
    checks = {
        f"{name}: verdict passed, error {result['max_abs']:.1e}, at most {LIMIT}": result["passed"]
        and result["max_abs"] <= LIMIT
        for name, result in networks.items()
    }
    return Result({"versions": versions, "limit": LIMIT, "networks": networks}, checks, hidden=("networks",))


if __name__ == "__main__":
    command(measure)()
