"""Train, export and serve each of eighteen well-known backbones; write the table of docs/backbones.md.

python -m benchmarks.studies.backbones [--output docs/backbones.md] [NAME...]

Each backbone is trained for one epoch on digits and exported to ONNX and to TorchScript, each with a verdict. A real
Triton loads the ONNX file and runs the images of the golden sample. The baseline is the trained checkpoint. Exits with
1 if a step of any backbone fails.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from rich.progress import track

from builder.export import PublishedVersion, export
from builder.request import ExportRequest
from server.process import Options, start, stop, wait_until_ready
from train.config.loading import Config
from train.engine.fit import fit
from tritonkit.errors import ArtifactError, TritonkitError
from tritonkit.golden import golden_of_checkpoint
from tritonkit.networks.backbones import timm_name
from tritonkit.spec import Frozen
from tritonkit.triton.client import TritonClient
from tritonkit.triton.runner import TritonRunner

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
PORTS = {"http_port": 18000, "grpc_port": 18001, "metrics_port": 18002}
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
        steps = [str(step) for step in (self.trained, self.exported, self.traced, self.served)]
        error = "" if self.error is None else f"{self.error:.0e}"
        cells = [self.name, f"`{timm_name(self.name)}`", f"{weights:.1f} M", str(embedding), *steps, error]
        return f"| {' | '.join(cells)} |"


def check_backbone(name: str, data: Path, folder: Path) -> BackboneResult:
    """Run all steps for one backbone; print an error to stderr and stop at the first failure."""
    result = BackboneResult(name=name)
    try:
        fitted = fit(_config(name, data, folder))
        result = result.model_copy(update={"trained": True})
        published = _export(fitted.checkpoint, False, folder / "repository")
        result = result.model_copy(update={"exported": published.verdict.passed})
        traced = _export(fitted.checkpoint, True, folder / "torchscript")
        result = result.model_copy(update={"traced": traced.verdict.passed})
        error = _served_error(fitted.checkpoint, published, folder / "repository")
        return result.model_copy(update={"served": error < 1e-4, "error": error})
    except TritonkitError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return result


def _config(name: str, data: Path, folder: Path) -> Config:
    document = {
        "name": timm_name(name),
        "output": folder / "runs",
        "data": {"path": data},
        "model": {"name": name},
        "image": {"size": 64, "fit": "squash"},
        "epochs": 1,
        "batch_size": 8,
        "workers": 0,
    }
    return Config.model_validate(document)


def _export(checkpoint: Path, torchscript: bool, repository: Path) -> PublishedVersion:
    request = ExportRequest(source=checkpoint, repository=repository, max_batch=MAX_BATCH, torchscript=torchscript)
    return export(request)


def _served_error(checkpoint: Path, published: PublishedVersion, repository: Path) -> float:
    golden = golden_of_checkpoint(checkpoint)
    if golden is None:
        raise ArtifactError(f"{checkpoint}: training wrote no golden sample", code="golden.not_found")
    server = start(Options(repository=repository, **PORTS), stops_with_parent=True)
    try:
        wait_until_ready(server, timeout_s=120)
        with TritonRunner(TritonClient(f"127.0.0.1:{PORTS['grpc_port']}"), published.model) as runner:
            images = golden.images[:4]
            answers = runner.infer(images)["probabilities"]
    finally:
        stop(server)
    return float(np.abs(answers - golden.outputs["probabilities"][:4]).max())


def _write_table(folder: Path) -> Path:
    """Write a CSV of a few digits and return its path."""
    table = folder / "digits.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image_path", "label"])
        for label in "017":
            writer.writerows((path.resolve(), label) for path in sorted((DIGITS / label).iterdir())[:PICTURES])
    return table


def _check_all(names: Sequence[str]) -> Iterator[BackboneResult]:
    for name in track(list(names), "checking backbones"):
        # A folder for each backbone: the weights and repositories of all are some gigabytes.
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            yield check_backbone(name, _write_table(folder), folder)


def main() -> int:
    """Check each backbone, write the table, and return 1 if a step failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NAMES), metavar="NAME")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    results = list(_check_all(arguments.names))
    rows = "\n".join(result.row() for result in results)
    print(rows)
    if arguments.output:
        arguments.output.write_text(PAGE.format(rows=rows, pictures=3 * PICTURES), encoding="utf-8")
    return 0 if all(result.traced and result.served for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
