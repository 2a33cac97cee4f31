"""`client compare`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.infer import PATHS_HELP
from client.commands.options import InferConnectionOptions, typed_options
from tritonkit.options import options_of
from tritonkit.system.console import JsonOption, print_json, print_text, reports_errors, table, track_progress, warn

if TYPE_CHECKING:
    from client.comparison.results import ModelComparison

MAX_ROWS = 20
MODEL_HELP = "A served model, MODEL or MODEL@VERSION, or the path of a checkpoint or an exported file."


@reports_errors
@options_of(InferConnectionOptions)
def compare(
    options: InferConnectionOptions,
    context: typer.Context,
    old: Annotated[str, typer.Argument(help=MODEL_HELP)],
    new: Annotated[str, typer.Argument(help="The model to compare with it, in the same form.")],
    paths: Annotated[list[str], typer.Argument(help=PATHS_HELP)],
    html: Annotated[Path | None, typer.Option(help="Write a page with the changed answers to this .html file.")] = None,
    min_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Exit with 1 if a smaller share of the answers agrees.")
    ] = 0.0,
    batch: Annotated[int, typer.Option(min=1, help="Images in a request, up to the models' maximum.")] = 16,
    as_json: JsonOption = False,
) -> None:
    """Compare the answers of two models to the same images; exit 1 if any image has no answer.

    Examples:

    * client compare cats@3 cats@4 photos/ --html changes.html

    * client compare cats runs/cats/2/best.safetensors photos/ --min-agreement 0.99

    * client compare model_repository/cats/1/model.onnx model_repository/cats/2/model.onnx photos/
    """
    from client.comparison.compare import ComparedModel, Comparer
    from client.comparison.models import references_of
    from client.comparison.page import write_comparison_page
    from client.sources import find_pictures, prefetch_content
    from tritonkit.system.files import check_can_write, check_is_html

    references = references_of(old, new, typed_options(context, InferConnectionOptions.model_fields))
    check_is_html(html)
    check_can_write(html)
    stream = find_pictures(paths)
    with contextlib.ExitStack() as stack:
        # Without a served model, no server is looked for.
        connection = options.connection(context) if any(each.is_served for each in references) else ""
        models = [ComparedModel(each.text, stack.enter_context(each.open(connection))) for each in references]
        comparer = Comparer(models[0], models[1], batch, with_thumbnails=html is not None)
        comparer.run(track_progress(prefetch_content(stream.pictures), "comparing", stream.total))
    result = comparer.result()
    if html is not None:
        write_comparison_page(html, result, comparer.tiles)
    print_json(result.document()) if as_json else _print_result(result, html)
    if skipped := stream.skipped.sentence():
        warn(skipped)
    if result.failed or result.share < min_agreement:
        raise typer.Exit(1)


def _print_result(result: ModelComparison, html: Path | None) -> None:
    if result.flips:
        rows = [[flip.decision, flip.before, flip.after, str(flip.images)] for flip in result.flips[:MAX_ROWS]]
        table(["decision", "old", "new", "images"], rows)
    if result.most_changed:
        # A measure that is 0 or 1 says no more than that the answer changed.
        measures = [
            measure
            for measure in result.measures
            if any(0 < each.agreement[measure] < 1 for each in result.most_changed)
        ]
        changed = [
            [
                each.path,
                each.before,
                each.after,
                f"{each.difference:.3g}",
                *(f"{each.agreement[m]:.3f}" for m in measures),
            ]
            for each in result.most_changed[:MAX_ROWS]
        ]
        table(["image", "old answer", "new answer", "difference", *measures], changed)
        if (hidden := result.changed - len(changed)) > 0:
            print_text(f"… and {hidden} more; --html FILE.html shows {len(result.most_changed)} with their images")
    if result.failures:
        table(["image", "error"], [[each.path, each.error] for each in result.failures])
    table(
        ["", "model", "answered by", "ms an image"],
        [
            [which, model.name, model.answered_by, f"{model.ms_per_image:.2f}"]
            for which, model in (("old", result.old), ("new", result.new))
        ],
    )
    print_text("times are of one request at a time, in turns; `bench run` and `bench compare` measure under load")
    for title, labels in (("old", result.only_old), ("new", result.only_new)):
        if labels:
            print_text(f"labels of the {title} model only: {', '.join(labels)}")
    low, high = result.interval
    facts = [f"mean {name} {value:.4f}" for name, value in result.further_measures.items()]
    if result.mean_difference is not None:
        facts.append(f"outputs differ by {result.mean_difference:.2g} on average, at most {result.max_difference:.2g}")
    if facts:
        print_text("; ".join(facts))
    failed = f"; {result.failed} failed" if result.failed else ""
    page = f"; {html} shows the changed answers" if html is not None else ""
    print_text(
        f"{result.images - result.changed} of {result.images} answers agree: {result.share:.1%} "
        f"(95 % interval {low:.1%} to {high:.1%}){failed}{page}"
    )
