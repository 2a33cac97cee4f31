"""The commands `train collect`, `train segment` and `train crop`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from tritonkit.errors import InputError
from tritonkit.system.console import JsonOption, print_json, print_text, reports_errors, warn


@reports_errors
def collect(
    url: Annotated[str, typer.Option(help="The address of the collection service, such as https://HOST/collections.")],
    group: Annotated[str, typer.Option(help="The group of pictures to load.")],
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder to load into; default: one named like the group.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Pictures that are fetched at once.")] = 8,
    retry_s: Annotated[
        float, typer.Option(min=0, help="Seconds for which a failed request is repeated, with growing pauses.")
    ] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Load a group of labelled pictures from a collection service; run it again to continue or to update.

    Writes `pictures/` and the table `images.json`, which `train fit` reads. A token comes from the environment
    variable TRITONKIT_COLLECTION_TOKEN. A picture that cannot be used is listed; the exit code is then 1.

    Examples:

        train collect --url https://collections.example.org --group street

        train collect --url http://127.0.0.1:9200 --group street --output data/street --json

        train fit people.yaml data.path=data/street
    """
    from train.people.collect import CollectOptions
    from train.people.collect import collect as run_collect
    from tritonkit.spec import NAME_PATTERN

    if output is None and not re.fullmatch(NAME_PATTERN, group):
        raise InputError(
            f"--group {group}: cannot name a folder; set the folder with --output", code="collection.output_missing"
        )
    result = run_collect(CollectOptions(url, group, output or Path(group), threads, retry_s))
    for picture, reason in result.rejected.items():
        warn(f"left out: {picture}: {reason}")
    if as_json:
        print_json(result)
    else:
        print(f"{result.images} pictures of group {group}, {result.fetched} fetched ({result.bytes / 1e6:,.1f} MB)")
        print_text(str(result.table))
    if result.rejected:
        raise typer.Exit(1)


DatabaseOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="The database of masks: sqlite:///FILE or postgresql://HOST/DATABASE; default: TRITONKIT_MASKS, else "
        "masks.db in the folder of the pictures. An address with a password belongs into TRITONKIT_MASKS.",
    ),
]
PicturesArgument = Annotated[
    str, typer.Argument(metavar="PICTURES", help="A collection, a table, or a folder of pictures or class folders.")
]


@reports_errors
def segment(
    pictures: PicturesArgument,
    artifact: Annotated[
        str | None,
        typer.Option("--with", metavar="PATH", help="A segmentation model: a checkpoint, or anything exported."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Instead of --with: the name of a model on a Triton.")] = None,
    url: Annotated[
        str | None, typer.Option(help="With --model: HOST:PORT of Triton's gRPC port; default: the local server.")
    ] = None,
    database: DatabaseOption = None,
    label: Annotated[
        str | None, typer.Option(help="The label of the objects; default: the only one, or person.")
    ] = None,
    min_share: Annotated[
        float, typer.Option(min=0, max=0.99, help="Regions with a smaller share of the mask's pixels are no objects.")
    ] = 0.0005,
    process_all: Annotated[bool, typer.Option("--process-all", help="Also pictures that are done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Find people with a segmentation model, and store the mask of each one in a database as COCO RLE.

    Pictures that this model has done before are skipped. Start the command several times to share the work, also on
    several machines with PostgreSQL. A picture that cannot be read is recorded and listed; the exit code is then 1.

    Examples:

        train segment street --with model_repository/people/1/model.onnx

        train segment street --model people --url 127.0.0.1:8001 --database postgresql://db.example.org/masks

        train segment photos/ --with runs/people/1/best.safetensors --database sqlite:///masks.db --process-all
    """
    if (artifact is None) == (model is None):
        raise InputError("choose the model: either --with PATH, or --model NAME", code="people.which_model")
    if url is not None and model is None:
        raise InputError("--url: has no effect without --model", code="option.no_effect")
    _check_installed()
    from train.people.segment import SegmentOptions
    from train.people.segment import segment as run_segment

    options = SegmentOptions(pictures, artifact, url, model, database, label, min_share, process_all)
    result = run_segment(options)
    for picture, reason in result.failed.items():
        warn(f"failed: {picture}: {reason}")
    if as_json:
        print_json(result)
    else:
        counts = f"{result.segmented} pictures segmented, {result.skipped} skipped, {len(result.failed)} failed"
        print_text(f"{counts}; {result.objects} objects ({result.label})")
        print_text(result.database)
    if result.failed:
        raise typer.Exit(1)


@reports_errors
def crop(
    pictures: PicturesArgument,
    output: Annotated[Path, typer.Option(metavar="DIR", help="The folder to create.")],
    database: DatabaseOption = None,
    margin: Annotated[
        float, typer.Option(min=0, max=2, help="The share of its width and height that is added on each side.")
    ] = 0.1,
    background: Annotated[str, typer.Option(help="keep, or remove: pixels outside the mask become white.")] = "keep",
    as_json: JsonOption = False,
) -> None:
    """Cut people out of pictures by their masks: lossless PNGs, and a table that `train fit` reads.

    A crop has the label of its picture. Crops of one picture stay in one part of the data. The crop settings end in
    each checkpoint that is trained on the crops. A picture without masks is listed; the exit code is then 1.

    Examples:

        train crop street --output crops

        train crop street --output crops --margin 0.2 --background remove --database postgresql://db/masks

        train fit people.yaml data.path=crops
    """
    _check_installed()
    from train.people.crop import CropOptions
    from train.people.crop import crop as run_crop
    from tritonkit.images.crops import CropSettings

    if background not in ("keep", "remove"):
        raise InputError(f"--background {background}: expected keep or remove", code="people.background")
    settings = CropSettings(margin=margin, background="remove" if background == "remove" else "keep")
    result = run_crop(CropOptions(pictures, database, output, settings))
    for picture, reason in result.left_out.items():
        warn(f"left out: {picture}: {reason}")
    if as_json:
        print_json(result)
    else:
        print(f"{result.crops} crops of {result.pictures} pictures, {result.without_objects} without objects")
        print_text(str(result.table))
    if result.left_out:
        raise typer.Exit(1)


def _check_installed() -> None:
    from importlib.util import find_spec

    missing = [module for module in ("pycocotools", "scipy", "sqlalchemy") if find_spec(module) is None]
    if missing:
        raise InputError(
            f"masks need the Python module {missing[0]}; install it with: pip install 'tritonkit[people]'",
            code="install.missing_module",
        )
