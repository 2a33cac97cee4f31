"""The command `builder index`."""

from __future__ import annotations

from builder.commands.output import print_published
from builder.index.request import IndexRequest
from tritonkit.options import options_of
from tritonkit.system.console import JsonOption, print_json, progress, reports_errors


@reports_errors
@options_of(IndexRequest)
def index(request: IndexRequest, as_json: JsonOption = False) -> None:
    """Publish an embedding model with a gallery: a picture in, its nearest pictures out, with label and distance.

    Embedder and gallery are one version of NAME_search, verified against the checkpoint and an exact search. An image
    whose nearest picture is too far away is called unknown. The threshold is chosen for a rate of false accepts.
    Galleries beyond 2 GB are searched with a FAISS index.

    Examples:

    * builder index runs/units/1/best.safetensors gallery/ --held-out others/ --false-accept 0.05

    * builder index runs/units/1/best.safetensors new_pictures/ --add

    * builder index runs/units/1/best.safetensors gallery.csv --data queries/ --neighbors 5
    """
    from builder.index.publish import index as run_index

    with progress("reading the embedder") as report:
        result = run_index(request, report)
    if as_json:
        print_json(result)
        return
    recall = ", ".join(f"{name} {value:.4f}" for name, value in result.recall.items())
    added = f", {result.added:,} images added" if request.add else ""
    print_published(
        result.published,
        f"gallery: {result.gallery}; {result.classes} classes{added}",
        f"each image searched for among the others: {recall or 'no class has two images'}",
    )
