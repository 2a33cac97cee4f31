"""Check the metrics of the example trainings against minimum values, and write the HTML page that shows them.

python -m scripts.demo.all_tasks_page all_tasks NAME...

Exits with 1 if a model is below the minimum of its task, or if checkpoint, ONNX file and Triton give different metrics.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.studies.study import report_checks
from scripts.demo.demo_page import data_url
from tritonkit import pages
from tritonkit.repository.verdict import Verdict
from tritonkit.spec import ModelSpec

RUNTIMES = ("checkpoint", "onnx", "triton")
MAX_DIFFERENCE = 0.001
MINIMUMS = {
    "fashion": ("accuracy", 0.88),
    "mosaics": ("map", 0.80),
    "units": ("recall@1", 0.93),
    "stamps": ("iou", 0.75),
    "heads": ("digit.accuracy", 0.95),
}
DRAWN = ("predictions.png", "curves.png", "confusion.png")


@dataclass(frozen=True)
class ExampleResult:
    """Metrics of one example training. `metrics`: by name, the values of checkpoint, ONNX file and Triton."""

    name: str
    task: str
    seconds: int
    metric: str
    minimum: float
    metrics: dict[str, list[float]]
    verdict: Verdict
    gallery: str
    drawings: tuple[str, ...]

    @property
    def difference(self) -> float:
        """Largest difference between the three, over all metrics."""
        return max(max(values) - min(values) for values in self.metrics.values())

    @property
    def passed(self) -> bool:
        """Whether the metric reaches its minimum and is the same when served."""
        return self.metrics[self.metric][0] >= self.minimum and self.difference < MAX_DIFFERENCE

    @property
    def sentence(self) -> str:
        """The line that is printed."""
        values = " ".join(f"{value:.4f}" for value in self.metrics[self.metric])
        return (
            f"{self.name}: {self.metric} {values} (checkpoint, ONNX, Triton; at least {self.minimum}), "
            f"largest difference of any metric {self.difference:.6f}, trained in {self.seconds} s"
        )


def main(folder: Path, names: Sequence[str]) -> int:
    """Print a line for each example, and write `index.html`."""
    results = [_result(folder, name) for name in names]
    template = pages.templates(Path(__file__).parent).get_template("all_tasks_page.html.jinja")
    page = template.render(results=results, max_difference=MAX_DIFFERENCE)
    (folder / "index.html").write_text(page, encoding="utf-8")
    print(f"open {folder / 'index.html'} in a browser")
    return 0 if report_checks({result.sentence: result.passed for result in results}) else 1


def _result(folder: Path, name: str) -> ExampleResult:
    example_folder, run, version = folder / name, folder / "runs" / name / "1", folder / "model_repository" / name / "1"
    measured = [json.loads((example_folder / f"{runtime}.json").read_bytes())["metrics"] for runtime in RUNTIMES]
    metric, minimum = MINIMUMS[name]
    return ExampleResult(
        name=name,
        task=ModelSpec.from_json((version / ModelSpec.FILE).read_text(encoding="utf-8"), str(version)).task,
        seconds=int((example_folder / "seconds").read_text()),
        metric=metric,
        minimum=minimum,
        metrics={key: [metrics[key] for metrics in measured] for key in measured[0]},
        verdict=Verdict.read_file(version / Verdict.FILE),
        gallery=(example_folder / "answers.html").read_text(encoding="utf-8"),
        drawings=tuple(data_url(run / drawn) for drawn in DRAWN if (run / drawn).is_file()),
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
