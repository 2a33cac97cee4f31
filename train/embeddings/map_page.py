"""Renders a two-dimensional map of vectors as one HTML page, with a thumbnail of each image."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from train.embeddings.analysis import Method, PrincipalComponents, project
from train.embeddings.vectors import ImageVectors, folder_of, thumbnail_sheet
from tritonkit import pages
from tritonkit.evaluation.tasks.base import natural_sort_key

MAX_POINTS = 5000
"""Points on the page; of more images, a random sample is shown."""
_TEMPLATE = "map.html.jinja"


def render_map(
    embeddings: ImageVectors,
    coordinates: NDArray[np.float32],
    components: PrincipalComponents,
    recall: Mapping[str, float | None],
    title: str,
    method: Method,
) -> str:
    """Return the page as HTML. coordinates: of all vectors along the principal components, [N, 2 or more]."""
    count = len(embeddings.pictures)
    shown = list(range(count))
    if count > MAX_POINTS:
        shown = sorted(np.random.default_rng(0).choice(count, MAX_POINTS, replace=False).tolist())
    positions = project(coordinates[shown], method)
    low, spread = positions.min(axis=0), max(float(np.ptp(positions, axis=0).max()), 1e-12)
    scaled = ((positions - low) / spread).round(4).tolist()

    pictures = [embeddings.pictures[number] for number in shown]
    answers = [embeddings.answers[number] for number in shown]
    by_label = any(picture.label is not None for picture in pictures)
    groups = [picture.label or "no label" for picture in pictures] if by_label else answers
    names = sorted(set(groups), key=lambda name: (name == "no label", natural_sort_key(name)))
    number_of = {name: number for number, name in enumerate(names)}
    folder = folder_of(pictures)
    sheet, columns = thumbnail_sheet([embeddings.thumbnails[number] for number in shown])
    height, width, _ = embeddings.thumbnails[0].shape
    points = [
        {
            "at": at,
            "group": number_of[group],
            "answer": answer,
            "wrong": picture.in_model and bool(answer) and answer != picture.label,
            "name": str(picture.path.absolute().relative_to(folder)),
        }
        for at, group, answer, picture in zip(scaled, groups, answers, pictures, strict=True)
    ]
    return (
        pages.templates(Path(__file__).parent)
        .get_template(_TEMPLATE)
        .render(
            title=title,
            method=method,
            kind=embeddings.kind,
            dimensions=embeddings.vectors.shape[1],
            count=count,
            shown=len(shown),
            folder=folder,
            components=components,
            first_two=sum(components.explained_variance[:2]),
            recall=recall,
            by_label=by_label,
            wrong=sum(bool(point["wrong"]) for point in points),
            data={"points": points, "groups": names, "byLabel": by_label, "columns": columns, "tile": [width, height]},
            sheet=_data_url(sheet),
        )
    )


def _data_url(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=82)
    return pages.data_url(data.getvalue(), "jpeg")
