"""Measure the export error of thirty well-known networks against torch in fp32 and fp16; write docs/models.md.

Each network is exported to ONNX and TorchScript, and TensorRT for RTX builds engines of both precisions. Weights are
random and calibrated on photographs, so nothing is downloaded. Results are stored after each network with the versions
of the tools: a stopped run continues, and results of other versions are computed again. Exits with 1 if a step fails.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.studies.backbones import NAMES
from benchmarks.studies.calibration import calibrated_network
from benchmarks.studies.study import Result, command, for_each_model, markdown_row, write_json
from builder.pipeline import export
from builder.request import ExportRequest
from builder.sources.base import NetworkSource
from builder.tensorrt.build import build
from scripts.package_versions import installed_versions
from tritonkit.errors import TritonkitError
from tritonkit.networks.backbones import timm_name
from tritonkit.repository.build_record import BuildSettings
from tritonkit.runtimes.formats import ONNX, RTX, Precision
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
    """Versions of the tools; empty in old results."""

    def row(self) -> str:
        """Return the row of the table."""
        steps = (self.fp32, self.fp16, self.kept, self.torchscript, self.rtx_fp32, self.rtx_fp16)
        return markdown_row([self.name, f"`{timm_name(self.name)}`", f"{self.weights_millions:.1f} M", *steps])


class _CachedGraphSource(NetworkSource):
    """A network whose fp32 graph is written once for all its exports."""

    def write_graph(self, path: Path) -> None:
        if not self.path.is_file():
            super().write_graph(self.path)
        shutil.copyfile(self.path, path)


def check_model(name: str, folder: Path) -> ModelResult:
    """Run all steps for one network."""
    network = calibrated_network(name)
    weights = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    source = _CachedGraphSource(folder / f"fp32{ONNX.suffix}", None, "calibrated weights", network)
    step_results: dict[str, str] = {}
    exceptions: list[str] = []
    steps: dict[str, Callable[[], str]] = {
        "fp32": lambda: _export(source, "onnx", "fp32", folder, step_results),
        "fp16": lambda: _export(source, "onnx", "fp16", folder, step_results),
        "torchscript": lambda: _export(source, "torchscript", "fp32", folder, step_results),
        "rtx_fp32": lambda: _build_engine(folder, "fp32"),
        "rtx_fp16": lambda: _build_engine(folder, "fp16"),
    }
    for step, run_step in steps.items():
        try:
            step_results[step] = run_step()
        except TritonkitError as error:
            step_results[step] = "no"
            exceptions.append(f"{step}: {str(error).splitlines()[0]}")
    return ModelResult(
        name=name,
        weights_millions=weights,
        exceptions=tuple(exceptions),
        versions=installed_versions(TOOLS)[0],
        **step_results,
    )


def _export(
    source: NetworkSource, format_name: str, precision: Precision, folder: Path, step_results: dict[str, str]
) -> str:
    """Export, and return the largest relative error of a passed verdict; keep the fp16 graph for the engine."""
    target = {format_name: True if format_name == "torchscript" else precision}
    repository = folder / f"{format_name}-{precision}"
    published = export(ExportRequest(source=source, repository=repository, max_batch=MAX_BATCH, **target))
    verdict = published.verdict
    if precision == "fp16":
        shutil.copyfile(published.artifact, folder / f"fp16{ONNX.suffix}")
        last = verdict.tries[-1]
        step_results["kept"] = f"{len(last.kept)} of {len(last.kept) + last.nodes}"
    worst = max(comparison.relative for comparison in verdict.artifact_comparisons)
    return f"{worst:.0e}" if verdict.precision == precision else f"{worst:.0e} as {verdict.precision}"


def _build_engine(folder: Path, precision: Precision) -> str:
    settings = BuildSettings(flavour="rtx", max_batch=MAX_BATCH)
    graph = folder / f"{precision}{ONNX.suffix}"
    record = build(graph, graph.with_suffix(RTX.suffix), settings, lambda step: None)
    return f"{record.bytes / 1e6:.0f} MB"


def missing_names(names: Sequence[str], stored: Mapping[str, ModelResult], trust: bool) -> list[str]:
    """Return the names without a result of the installed versions; `trust` accepts results without versions."""
    versions = installed_versions(TOOLS)[0]
    accepted = (versions, {}) if trust else (versions,)
    return [name for name in names if name not in stored or stored[name].versions not in accepted]


def page(results: Sequence[ModelResult]) -> str:
    """Return docs/models.md."""
    made_with = dict.fromkeys(
        ", ".join(f"{tool} {version}" for tool, version in result.versions.items()) or "versions that were not kept"
        for result in results
    )
    text = PAGE.format(rows="\n".join(result.row() for result in results), made_with="; ".join(made_with))
    exceptions = [f"- {result.name}, {reason}" for result in results for reason in result.exceptions]
    return text + ("\n## Exceptions\n\n" + "\n".join(exceptions) + "\n" if exceptions else "")


def measure(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...")] = None,
    results: Path = Path("benchmarks/results/models.json"),
    trust: Annotated[bool, typer.Option("--trust", help="Also keep results without versions.")] = False,
) -> Result:
    """Check each network without a result of these versions, and write the results after each."""
    documents = json.loads(results.read_bytes()) if results.is_file() else []
    stored = {document["name"]: ModelResult.model_validate(document) for document in documents}
    names = names or [*NAMES, *FAMILIES]
    for name, result in for_each_model(missing_names(names, stored, trust), check_model, "checking networks"):
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
