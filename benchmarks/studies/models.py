"""Measure the export error of thirty well-known networks against torch in fp32 and fp16; write docs/models.md.

Each network is exported to ONNX and TorchScript, and TensorRT for RTX builds engines of both precisions. Weights are
random and calibrated on photographs, so nothing is downloaded. Results are stored after each network with the versions
of the tools: a stopped run continues, and results of other versions are computed again. Exits with 1 if a step fails.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.studies.backbones import NAMES
from benchmarks.studies.calibration import calibrated_network
from benchmarks.studies.local_triton import CachedGraphSource
from benchmarks.studies.study import Result, command, for_each_model, markdown_row, write_json
from builder.pipeline import export
from builder.request import ExportRequest
from builder.tensorrt.build import build
from scripts.package_versions import installed_versions
from tritonkit.errors import TritonkitError
from tritonkit.networks.backbones import timm_name
from tritonkit.repository.build_record import BuildSettings
from tritonkit.runtimes.formats import ONNX, RTX
from tritonkit.spec import Frozen

FAMILIES = (
    *("vit_tiny_patch16_224", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnextv2_atto"),
    *("maxvit_rmlp_pico_rw_256", "tf_efficientnetv2_b0", "regnety_004", "mobilevit_xxs", "eva02_tiny_patch14_224"),
    *("poolformer_s12", "ghostnet_100", "lcnet_050"),
)
MAX_BATCH = 4
TOOLS = ("torch", "timm", "onnx", "onnxruntime", "tensorrt-rtx")
"""Packages whose version can change a result."""
PAGE = """# Models that were verified

Each row is a real run of `python -m benchmarks.studies.models`. A network of timm at its own size gets random weights,
whose statistics and last layer are calibrated on photographs. It is exported to ONNX in fp32 and fp16 and traced to
TorchScript, and TensorRT for RTX builds an engine from both graphs on the CPU (no engine is run).

A number under ONNX or TorchScript is the largest relative error against torch in a passed verdict: the norm of the
error divided by the norm of the variation between images. `3e-06 as fp32` means that fp16 changed answers and fp32 was
published instead. `no` means that the step failed; Exceptions give the reason. `kept` counts the nodes that stay in
fp32, of all nodes that fp16 could take.

Made with {made_with}.

| network | timm's name | weights | ONNX fp32 | ONNX fp16 | kept | TorchScript | RTX fp32 | RTX fp16 |
|---|---|---|---|---|---|---|---|---|
{rows}
"""


class ModelResult(Frozen):
    """Results of one network by step; a failed step has an entry in `exceptions`."""

    name: str
    weights_millions: float
    fp32: str = ""
    fp16: str = ""
    kept: str = ""
    torchscript: str = ""
    rtx_fp32: str = ""
    rtx_fp16: str = ""
    exceptions: tuple[str, ...] = ()
    versions: dict[str, str] = {}
    """Versions of the tools."""

    def row(self) -> str:
        """Return the row of the table."""
        steps = (self.fp32, self.fp16, self.kept, self.torchscript, self.rtx_fp32, self.rtx_fp16)
        return markdown_row([self.name, f"`{timm_name(self.name)}`", f"{self.weights_millions:.1f} M", *steps])


def check_model(name: str, folder: Path) -> ModelResult:
    """Run all steps for one network."""
    network = calibrated_network(name)
    weights = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    source = CachedGraphSource(folder / f"fp32{ONNX.suffix}", None, "calibrated weights", network)
    cells: dict[str, str] = {}
    exceptions: list[str] = []
    for step in ("fp32", "fp16", "torchscript", "rtx_fp32", "rtx_fp16"):
        try:
            cells |= run_step(step, source, folder)
        except TritonkitError as error:
            cells[step] = "no"
            exceptions.append(f"{step}: {str(error).splitlines()[0]}")
    versions = installed_versions(TOOLS)[0]
    return ModelResult(name=name, weights_millions=weights, exceptions=tuple(exceptions), versions=versions, **cells)


def run_step(step: str, source: CachedGraphSource, folder: Path) -> dict[str, str]:
    """Run a step and return its cells of the table. Raises TritonkitError."""
    if step.startswith("rtx"):
        graph = folder / f"{step.removeprefix('rtx_')}{ONNX.suffix}"
        settings = BuildSettings(flavour="rtx", max_batch=MAX_BATCH)
        record = build(graph, graph.with_suffix(RTX.suffix), settings, lambda line: None)
        return {step: f"{record.bytes / 1e6:.0f} MB"}
    target = {"torchscript": True} if step == "torchscript" else {"onnx": step}
    published = export(ExportRequest(source=source, repository=folder / step, max_batch=MAX_BATCH, **target))
    verdict = published.verdict
    worst = f"{max(comparison.relative for comparison in verdict.artifact_comparisons):.0e}"
    if step != "fp16":
        return {step: worst}
    shutil.copyfile(published.artifact, folder / f"fp16{ONNX.suffix}")  # for the engine
    last = verdict.tries[-1]
    return {
        step: worst if verdict.precision == step else f"{worst} as {verdict.precision}",
        "kept": f"{len(last.kept)} of {len(last.kept) + last.nodes}",
    }


def missing_names(names: Sequence[str], stored: Mapping[str, ModelResult]) -> list[str]:
    """Return the names without a result of the installed versions."""
    versions = installed_versions(TOOLS)[0]
    return [name for name in names if name not in stored or stored[name].versions != versions]


def page(results: Sequence[ModelResult]) -> str:
    """Return docs/models.md."""
    made_with = dict.fromkeys(
        ", ".join(f"{tool} {version}" for tool, version in result.versions.items()) for result in results
    )
    text = PAGE.format(rows="\n".join(result.row() for result in results), made_with="; ".join(made_with))
    exceptions = [f"- {result.name}, {reason}" for result in results for reason in result.exceptions]
    return text + ("\n## Exceptions\n\n" + "\n".join(exceptions) + "\n" if exceptions else "")


def measure(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...")] = None,
    results: Path = Path("benchmarks/results/models.json"),
) -> Result:
    """Check each network without a result of these versions, and write the results after each."""
    documents = json.loads(results.read_bytes()) if results.is_file() else []
    stored = {document["name"]: ModelResult.model_validate(document) for document in documents}
    names = names or [*NAMES, *FAMILIES]
    for name, result in for_each_model(missing_names(names, stored), check_model, "checking networks"):
        stored[name] = result
        print(result.row(), *result.exceptions, sep="\n", flush=True)
        write_json(results, [result.model_dump(mode="json") for result in stored.values()])
    chosen = [stored[name] for name in names]
    checks = {
        f"{result.name}: {', '.join(result.exceptions) or 'no exception'}": not result.exceptions for result in chosen
    }
    return Result({"networks": len(chosen)}, checks, page=page(chosen))


if __name__ == "__main__":
    command(measure)()
