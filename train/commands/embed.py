"""The command `train embed`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from train.commands.output import format_metric
from tritonkit.errors import InputError
from tritonkit.system.console import JsonOption, print_json, reports_errors, table, warn

if TYPE_CHECKING:
    from train.embeddings.run import EmbeddingReport

METHODS = ("pca", "tsne")
_SHOWN = 10
"""Components in the table."""


@reports_errors
def embed(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint of any task.")],
    images: Annotated[
        str | None,
        typer.Argument(help="A folder, CSV or JSON, with or without labels; default: the test images of its run."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the vectors, paths, labels and answers: .npz, .npy or .parquet."),
    ] = None,
    projector: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a folder for TensorBoard's projector.")
    ] = None,
    map_page: Annotated[
        Path | None, typer.Option("--map", metavar="FILE.html", help="Write a map of all images as one page.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="How the map is computed: pca (default) or tsne.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute a vector for each image: the embedding, or the features that the last layer of a classifier takes.

    Prints the variance that principal components explain, and with labels how often the nearest image has the same.
    An image that cannot be read is listed and left out; the exit code is then 1.

    Examples:

        train embed runs/digits/1/best.safetensors --map digits.html

        train embed runs/digits/1/best.safetensors photos/ --output photos.npz --map photos.html --method tsne

        train embed runs/digits/1/best.safetensors --projector projector && tensorboard --logdir projector
    """
    if method is not None and method not in METHODS:
        raise InputError(
            f"--method {method}: unknown; choose one of {', '.join(METHODS)}", code="option.unknown_method"
        )
    if method is not None and map_page is None:
        raise InputError("--method: has no effect without --map", code="option.no_effect")
    from train.embeddings.run import embed_images

    report = embed_images(checkpoint, images, output, projector, map_page, "tsne" if method == "tsne" else "pca")
    for problem in report.unreadable:
        warn(f"left out: {problem}")
    if as_json:
        print_json(report)
    else:
        _print(report)
    if report.unreadable:
        raise typer.Exit(1)


def _print(report: EmbeddingReport) -> None:
    kind = "embeddings" if report.kind == "embedding" else "features"
    print(f"{report.images} images of {report.data}: {kind} of {report.dimensions} numbers, unit length")
    rows, together = [], 0.0
    for number, share in enumerate(report.pca.explained_variance[:_SHOWN], 1):
        together += share
        rows.append((str(number), f"{share:.1%}", f"{together:.1%}"))
    table(("component", "explains", "together"), rows)
    print(f"{report.pca.components_for_90_percent} of {report.dimensions} components explain 90 % of the variance")
    if report.recall:
        title = f"nearest of the other {report.labelled - 1} labelled images"
        table((title, "value"), [(name, format_metric(value)) for name, value in report.recall.items()])
    for file in report.files:
        print(file)
