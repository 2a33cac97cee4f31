"""The page of a drift report."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from client.drift.report import ColumnDrift, DriftReport, LabelDrift
from client.drift.sketching import PictureSample
from client.drift.statistics import Sample
from tritonkit import pages
from tritonkit.images.preprocess import ImageError
from tritonkit.pages.contact_sheet import ContactSheetTile, thumbnail
from tritonkit.sketch import Sketch
from tritonkit.system.files import atomic_write

MAX_LABELS = 30
MAX_HISTOGRAMS = 6
_BINS = 24


class Histogram(NamedTuple):
    """The values of one column: the share of images in each bin, as its square root, relative to the highest bin."""

    column: ColumnDrift
    reference: list[float]
    current: list[float]
    low: float
    high: float


class LabelRow(NamedTuple):
    """The bars of one label, in percent of the widest bar."""

    label: LabelDrift
    reference: float
    current: float


class OutputSection(NamedTuple):
    """A head, or the pictures themselves."""

    title: str
    rows: list[LabelRow]
    labels: int
    histograms: list[Histogram]
    columns: int


def write_page(path: Path, report: DriftReport, reference: Sketch, current: Sketch, sample: PictureSample) -> None:
    """Write the report as one self-contained HTML page, atomically. Raises OSError."""
    sections = [
        OutputSection(
            output.output,
            _label_rows(output.labels),
            len(output.labels),
            _histograms(output.columns, reference.outputs[output.output].values, current.outputs[output.output].values),
            len(output.columns),
        )
        for output in report.outputs
    ]
    pictures = _histograms(report.pictures, reference.pictures, current.pictures)
    sections.append(OutputSection("pictures", [], 0, pictures, len(pictures)))
    page = pages.templates(Path(__file__).parent).get_template("page.html.jinja")
    text = page.render(report=report, findings=report.findings(), sections=sections, tiles=_tiles(report, sample))
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _label_rows(labels: tuple[LabelDrift, ...]) -> list[LabelRow]:
    shown = labels[:MAX_LABELS]
    widest = max((max(label.reference, label.current) for label in shown), default=0) or 1
    return [LabelRow(label, 100 * label.reference / widest, 100 * label.current / widest) for label in shown]


def _histograms(drifts: tuple[ColumnDrift, ...], reference: Sample, current: Sample) -> list[Histogram]:
    histograms = []
    for drift in islice(drifts, MAX_HISTOGRAMS):
        values = [sample[:, drift.number].astype(np.float64) for sample in (reference, current)]
        low, high = min(v.min() for v in values), max(v.max() for v in values)
        edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
        shares = [np.sqrt(np.histogram(v, edges)[0] / len(v)) for v in values]
        highest = max(s.max() for s in shares)
        histograms.append(
            Histogram(drift, (shares[0] / highest).tolist(), (shares[1] / highest).tolist(), float(low), float(high))
        )
    return histograms


def _tiles(report: DriftReport, sample: PictureSample) -> list[ContactSheetTile]:
    by_name = {picture.name: picture for picture in sample.answered}
    tiles = []
    for far in report.furthest:
        try:
            image = thumbnail(by_name[far.path].decode())
        except ImageError:  # the file was deleted after it was answered
            image = None
        caption = f"{far.by}: {far.closer:.1%}"
        tiles.append(ContactSheetTile(name=far.path, image=image, caption=caption))
    return tiles
