"""Train, export and serve each of eighteen well-known backbones; write the table of docs/backbones.md.

Each backbone is trained for one epoch on digits and exported to ONNX and to TorchScript, each with a verdict. A real
Triton loads the ONNX file and runs the images of the golden sample. The baseline is the trained checkpoint. Exits with
1 if a step of any backbone fails.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import timm
import torch
import typer

from benchmarks.studies.local_triton import serve
from benchmarks.studies.study import Result, command, for_each_model, markdown_row
from builder.pipeline import export
from builder.request import ExportRequest
from train.config.loading import Config
from train.engine.fit import fit
from tritonkit.errors import ArtifactError, TritonkitError
from tritonkit.golden import golden_of_checkpoint
from tritonkit.networks.backbones import timm_name
from tritonkit.spec import Frozen

NAMES = (
    *("ResNet-18", "ResNet-34", "ResNet-50", "ResNet-101", "MobileNetV2", "MobileNetV3 small", "MobileNetV3 large"),
    *("ResNeXt-50 32x4d", "ResNeXt-101 32x8d", "WideResNet-50-2", "WideResNet-101-2"),
    *("EfficientNet-B0", "EfficientNet-B3", "EfficientNet-B4"),
    *("DenseNet-121", "DenseNet-161", "DenseNet-169", "DenseNet-201"),
)
DIGITS = Path(".cache/data/digits")
PICTURES = 24
"""Of each of three digits."""
MAX_BATCH = 4
PAGE = """# Backbones that were verified

Any network of timm can be named in `model.name`. These eighteen are also found by the names that papers and other
libraries give them. Each row is a real run of `python -m benchmarks.studies.backbones`: the network is trained for
one epoch on {pictures} digits of 64 x 64 pixels, exported to ONNX with a verdict, loaded by NVIDIA Triton and
queried. The error is the largest difference of any probability between the trained checkpoint and Triton.
`TorchScript` says whether the trace of `builder export --torchscript` passed its own verdict against the same
checkpoint.

| name | timm's name | weights | embedding | trained | ONNX | TorchScript | Triton | largest error |
|---|---|---|---|---|---|---|---|---|
{rows}
"""


class BackboneResult(Frozen):
    """Completed steps of one backbone."""

    name: str
    trained: bool = False
    exported: bool = False
    traced: bool = False
    """Exported to TorchScript too."""
    served: bool = False
    error: float | None = None
    """The largest difference of a probability, checkpoint to Triton."""

    def row(self) -> str:
        """Return the row of the table."""
        built = timm.create_model(timm_name(self.name), num_classes=0).eval()
        embedding = int(built(torch.zeros(1, 3, 64, 64)).shape[1])
        weights = sum(weight.numel() for weight in built.parameters()) / 1e6
        steps = (self.trained, self.exported, self.traced, self.served)
        error = "" if self.error is None else f"{self.error:.0e}"
        return markdown_row([self.name, f"`{timm_name(self.name)}`", f"{weights:.1f} M", embedding, *steps, error])


def check_backbone(name: str, folder: Path) -> BackboneResult:
    """Run all steps for one backbone; print an error to stderr and stop at the first failure."""
    pictures = [path for label in "017" for path in sorted((DIGITS / label).iterdir())[:PICTURES]]
    table = "".join(f"{path.resolve()},{path.parent.name}\n" for path in pictures)
    (folder / "digits.csv").write_text(f"image_path,label\n{table}", encoding="utf-8")
    settings = {
        "name": timm_name(name),
        "output": folder / "runs",
        "data": {"path": folder / "digits.csv"},
        "model": {"name": name},
        "image": {"size": 64, "fit": "squash"},
        "epochs": 1,
        "batch_size": 8,
        "workers": 0,
    }
    done: dict[str, Any] = {}
    try:
        checkpoint = fit(Config.model_validate(settings)).checkpoint
        done["trained"] = True
        published = export(ExportRequest(source=checkpoint, repository=folder / "repository", max_batch=MAX_BATCH))
        done["exported"] = published.verdict.passed
        traced = ExportRequest(source=checkpoint, repository=folder / "traced", max_batch=MAX_BATCH, torchscript=True)
        done["traced"] = export(traced).verdict.passed
        golden = golden_of_checkpoint(checkpoint)
        if golden is None:
            raise ArtifactError(f"{checkpoint}: training wrote no golden sample", code="golden.not_found")
        with serve(folder / "repository") as triton:
            _, answers = triton.infer(published.model, golden.images[:MAX_BATCH])
        errors = np.abs(answers["probabilities"] - golden.outputs["probabilities"][:MAX_BATCH])
        done["error"] = float(errors.max())
        done["served"] = done["error"] < 1e-4
    except TritonkitError as error:
        print(f"{name}: {error}", file=sys.stderr)
    return BackboneResult(name=name, **done)


def measure(names: Annotated[list[str] | None, typer.Argument(metavar="NAME...")] = None) -> Result:
    """Check each backbone."""
    results = dict(for_each_model(names or NAMES, check_backbone, "checking backbones"))
    rows = "\n".join(result.row() for result in results.values())
    return Result(
        {"backbones": {name: result.model_dump() for name, result in results.items()}},
        {f"{name}: traced and served": result.traced and result.served for name, result in results.items()},
        page=PAGE.format(rows=rows, pictures=3 * PICTURES),
    )


if __name__ == "__main__":
    command(measure)()
