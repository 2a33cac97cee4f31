"""`client drift`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import InferConnectionOptions, typed_options
from tritonkit.errors import InputError
from tritonkit.options import options_of
from tritonkit.system.console import JsonOption, print_json, print_text, reports_errors, table, track_progress, warn

if TYPE_CHECKING:
    from client.drift.report import ColumnDrift, DriftReport

_MAX_ROWS = 10


@reports_errors
@options_of(InferConnectionOptions)
def drift(
    options: InferConnectionOptions,
    context: typer.Context,
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="MODEL PICTURES...", help="The served model (not with --from), and pictures as infer."),
    ],
    sketch: Annotated[
        str | None, typer.Option(metavar="FILE", help="The sketch to compare with; default: the version's.")
    ] = None,
    repository: Annotated[Path, typer.Option(help="The repository that the server serves.")] = Path("model_repository"),
    source: Annotated[
        str | None, typer.Option("--from", metavar="PATH", help="Use this checkpoint or ONNX file, not a server.")
    ] = None,
    version: Annotated[str, typer.Option(help="Version of the model; default: the server's choice.")] = "",
    alpha: Annotated[float, typer.Option(min=1e-6, max=0.5, help="Probability of a false alarm.")] = 0.05,
    min_shift: Annotated[
        float, typer.Option(min=0, max=1, help="Smallest change that counts, as a KS distance.")
    ] = 0.1,
    html: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write the result as a page.")] = None,
    save_sketch: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Save a sketch of these pictures; compare nothing.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a request, up to the model's maximum.")] = 16,
    as_json: JsonOption = False,
) -> None:
    """Compare pictures with the images a model was validated on; exit 1 if they, or its answers, have drifted.

    Examples:

    * client drift digits today/

    * client drift digits today/ --repository /srv/models --html drift.html

    * client drift today/ --from runs/digits/1/best.safetensors

    * client drift imagenet lastyear/ --save-sketch lastyear.npz && client drift imagenet today/ --sketch lastyear.npz
    """
    model, paths = (None, arguments) if source is not None else (arguments[0], arguments[1:])
    _check_options(context, model, version, paths, html, save_sketch)
    try:
        import scipy  # noqa: F401 - before anything is answered
    except ModuleNotFoundError as error:
        raise InputError(
            "drift needs SciPy; install it with: pip install 'tritonkit[drift]'", code="install.missing_module"
        ) from error
    from client.drift.page import write_page
    from client.drift.report import drift_report
    from client.drift.sketching import PictureSample, find_sketch, load_reference, sketch_pictures
    from client.model_loading import open_runner
    from client.sources import find_pictures, prefetch_content
    from tritonkit.remotes import local_path
    from tritonkit.repository.artifact_files import local_artifact
    from tritonkit.sketch import SketchSampler
    from tritonkit.system.files import check_can_write

    for file in filter(None, (html, save_sketch)):
        check_can_write(file)
    stream = find_pictures(paths)
    artifact = None if source is None else local_artifact(source)
    url = "" if source is not None else options.connection(context)
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(open_runner(artifact, url, model, version, pinned=True))
        answering = "" if source is not None else str(getattr(runner, "version", ""))
        if save_sketch is None:
            path = find_sketch(runner, None if sketch is None else local_path(sketch), artifact, repository)
            reference = load_reference(path, runner, answering)
        sample = PictureSample(SketchSampler(runner.spec))
        rows = sketch_pictures(runner, prefetch_content(stream.pictures), batch, sample)
        for _ in track_progress(rows, "answering", stream.total):
            pass
    for name, reason in list(sample.errors.items())[:_MAX_ROWS]:
        warn(f"{name}: {reason}")
    if skipped := stream.skipped.sentence():
        warn(skipped)
    current = sample.sketch(answering)
    if save_sketch is not None:
        current.save(save_sketch)
        saved = {"sketch": save_sketch, "images": current.images, "failed": len(sample.errors)}
        print_json(saved) if as_json else print_text(f"saved: {save_sketch}, of {current.images} pictures")
        return
    report = drift_report(runner, answering, path, reference, current, sample, alpha, min_shift)
    if html is not None:
        write_page(html, report, reference, current, sample)
    print_json(report) if as_json else _print_report(report)
    if report.drifted:
        raise typer.Exit(1)


def _check_options(
    context: typer.Context,
    model: str | None,
    version: str,
    paths: list[str],
    html: Path | None,
    save_sketch: Path | None,
) -> None:
    """Refuse options that contradict each other. Raises InputError."""
    if not paths:
        raise InputError(
            f"expected a model and pictures, got only {model!r}; name the pictures after the model, or use --from",
            code="drift.no_pictures",
        )
    if model is None and version:
        raise InputError("--from answers in this process; --version is of a server's model", code="option.from_model")
    if model is None and (flags := typed_options(context, [*InferConnectionOptions.model_fields, "repository"])):
        raise InputError(
            f"--from answers in this process, without a server; omit {', '.join(flags)}", code="option.from_server"
        )
    comparing = ["sketch", "repository", "alpha", "min_shift", "html"]
    if save_sketch is not None and (flags := typed_options(context, comparing)):
        raise InputError(f"--save-sketch compares nothing; omit {', '.join(flags)}", code="option.no_effect")
    if html is not None and html.suffix != ".html":
        raise InputError(f"--html {html}: expected a name that ends in .html", code="output.not_html")
    if save_sketch is not None and save_sketch.suffix != ".npz":
        raise InputError(f"--save-sketch {save_sketch}: expected a name that ends in .npz", code="drift.not_npz")


def _print_report(report: DriftReport) -> None:
    for output in report.outputs:
        if output.labels:
            table(
                [output.output, "reference", "pictures", "change, 95 %", "shift", "p", ""],
                [
                    [
                        label.label,
                        f"{label.reference:.1%}",
                        f"{label.current:.1%}",
                        f"{label.low * 100:+.1f} to {label.high * 100:+.1f}",
                        f"{label.shift:+.2f}",
                        f"{label.p:.2g}",
                        "moved" if label.moved else "",
                    ]
                    for label in output.labels[:_MAX_ROWS]
                ],
            )
        _print_columns(f"{output.output}, mean", output.columns, ".3f")
    _print_columns("pictures, mean", report.pictures, ".1f")
    for finding in report.findings():
        print_text(finding)
    print_text(
        f"{'DRIFT' if report.drifted else 'no drift'}: {report.images} pictures against {report.reference_images} "
        f"images of {report.sketch}; alpha {report.alpha:g}, shifts of {report.min_shift:g} or more count"
    )


def _print_columns(title: str, columns: tuple[ColumnDrift, ...], digits: str) -> None:
    rows = [
        [
            column.name,
            f"{column.reference:{digits}}",
            f"{column.current:{digits}}",
            f"{column.distance:.2f}",
            f"{column.p:.2g}",
            "moved" if column.moved else "",
        ]
        for column in columns[:_MAX_ROWS]
    ]
    table([title, "reference", "pictures", "KS distance", "p", ""], rows)
