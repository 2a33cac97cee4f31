"""The verdict of a pipeline: as served by Triton, it answers as its steps done one after the other by hand.

By hand: the artifacts of both models are opened in this process, and the objects are classified one at a time.
"""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from builder.object_pipeline.members import Members
from builder.sources.images import PHOTOS
from tritonkit.comparison import Comparison, Limits
from tritonkit.errors import DataError, Problem, TritonkitError, first_line
from tritonkit.images.crops import crop_object
from tritonkit.images.objects import objects_of, to_rle
from tritonkit.images.picture_files import pictures_below
from tritonkit.images.pipeline import Pipeline
from tritonkit.images.preprocess import Geometry, ImageError, decode_image, fit_image, read_picture
from tritonkit.pages.contact_sheet import ContactSheetTile, draw_objects, overlay, thumbnail, write_contact_sheet
from tritonkit.remotes import local_path
from tritonkit.remotes.addresses import public_name
from tritonkit.repository.pipelines.settings import PipelineSettings
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes import Runner, open_artifact
from tritonkit.runtimes.base import decode_text
from tritonkit.runtimes.formats import ProgressCallback
from tritonkit.spec import ModelSpec, Outputs
from tritonkit.system.commands import check_commands, run_command, serving
from tritonkit.tasks import task_of

LIMITS = Limits(max_abs=1e-5, relative=1e-3, decisions=1.0, quality=0.0)
"""Boxes and masks must be equal; the probabilities of a batch may differ from those of one image by rounding."""
MAX_PICTURES = 12
PICTURES_FILE = "pictures.zip"
"""The pictures of the verdict, in the version folder."""
Answer = Callable[[bytes], Outputs]
_EMPTY = "without objects.png"


def verdict_pictures(location: Path | str | None) -> tuple[dict[str, bytes], str]:
    """Return evenly spaced pictures of a folder by name, and a plain grey one; and where they come from.

    location: None takes the built-in photographs. Raises DataError for a folder without pictures.
    """
    folder = PHOTOS if location is None else local_path(location)
    files = pictures_below(folder) if folder.is_dir() else []
    if not files:
        raise DataError(
            f"{public_name(str(location))}: expected a folder of pictures for the verdict, found none",
            code="data.too_few_images",
        )
    chosen = np.unique(np.linspace(0, len(files) - 1, min(len(files), MAX_PICTURES)).round().astype(int))
    pictures = {}
    for number, path in enumerate(files[index] for index in chosen):
        try:
            pictures[f"{number}-{path.name}"] = read_picture(path)
            decode_image(pictures[f"{number}-{path.name}"])
        except ImageError as error:
            raise DataError(f"{path}: {error}", code=error.code) from error
    grey = io.BytesIO()
    Image.new("RGB", (320, 240), (128, 128, 128)).save(grey, "PNG")
    origin = "built-in photographs" if location is None else f"pictures of {public_name(str(location))}"
    return {**pictures, _EMPTY: grey.getvalue()}, f"{len(pictures)} {origin} and a grey one"


def by_hand(members: Members, segmenter: Runner, classifier: Runner) -> Answer:
    """Return a function that answers a picture step after step, one object at a time."""
    masks, kinds = members.segmenter.spec, members.classifier.spec
    class_number = masks.labels.index(members.label)

    def answer(data: bytes) -> Outputs:
        image = decode_image(data)
        pixels, geometry = fit_image(image, masks.preprocess)
        mask = segmenter.infer(pixels[None])["mask"][0]
        found = objects_of(mask, geometry, class_number, members.crop.min_share)
        rows = [
            classifier.infer(fit_image(crop_object(image, entry, members.crop), kinds.preprocess)[0][None])
            for entry in found
        ]
        probabilities = np.array([row["probabilities"][0] for row in rows], np.float32).reshape(-1, len(kinds.labels))
        return {
            "boxes": np.array([entry.box for entry in found], np.int32).reshape(-1, 4),
            "masks": np.array([to_rle(entry, image.size) for entry in found], np.str_),
            "labels": np.array([kinds.labels[number] for number in probabilities.argmax(axis=1)], np.str_),
            "probabilities": probabilities,
            "size": np.array(image.size, np.int32),
        }

    return answer


@contextmanager
def _served(
    members: Members, staged: Path, name: str, runtime: str, report: ProgressCallback
) -> Iterator[tuple[Answer, str]]:
    """Serve the staged pipeline and its members; yield what answers, and its description.

    Raises TritonkitError where Triton cannot serve the members here.
    """
    from tritonkit.triton.client import TritonClient
    from tritonkit.triton.runner import TritonRunner

    check_commands("server")
    repository = staged.with_name(f"{staged.name}.served")
    try:
        for folder in (members.segmenter.folder.path, members.classifier.folder.path):
            shutil.copytree(folder, repository / folder.name, copy_function=os.link)
        shutil.copytree(staged, repository / name, copy_function=os.link)
        models = ("--model", members.segmenter.folder.name, "--model", members.classifier.folder.name)
        report("starting Triton")
        with serving(repository, *models, "--runtime", runtime) as port:
            runner: TritonRunner | None = None

            def answer(data: bytes) -> Outputs:
                nonlocal runner
                if runner is None:
                    run_command("server", "load", name, "--grpc-port", port)
                    runner = TritonRunner(TritonClient(f"127.0.0.1:{port}"), name)
                return runner.infer_encoded(data)

            yield answer, f"the pipeline as served by Triton ({runtime})"
            if runner is not None:
                runner.close()
    finally:
        shutil.rmtree(repository, ignore_errors=True)


@contextmanager
def _in_process(
    settings: PipelineSettings, segmenter: Runner, classifier: Runner, reason: str
) -> Iterator[tuple[Answer, str]]:
    """Yield the code of the pipeline with both models in this process, where Triton cannot serve them here."""
    pipeline = Pipeline(
        settings.model_dump(mode="json"),
        lambda batch: segmenter.infer(batch)["mask"],
        lambda batch: classifier.infer(batch)["probabilities"],
    )
    described = f"the code of the pipeline in this process, because Triton could not serve its models here: {reason}"
    yield lambda data: decode_text(pipeline.answer(data)), described


def verify(
    members: Members,
    spec: ModelSpec,
    settings: PipelineSettings,
    staged: Path,
    pictures: Mapping[str, bytes],
    origin: str,
    runtime: str,
    report: ProgressCallback,
) -> tuple[Verdict, dict[str, Outputs]]:
    """Return the verdict, and the answers by hand by the name of the picture.

    staged: the folder of the pipeline as it will be published. origin: where the pictures come from.
    Raises the errors of opening the artifacts.
    """
    with open_artifact(members.segmenter.artifact) as segmenter, open_artifact(members.classifier.artifact) as kinds:
        report("answering by hand")
        answer = by_hand(members, segmenter, kinds)
        expected = {name: answer(data) for name, data in pictures.items()}
        started = False
        try:
            with _served(members, staged, spec.name, runtime, report) as (answer, proven_by):
                started = True
                report("comparing the served pipeline")
                problems, comparisons = _compare(spec, expected, pictures, answer)
        except TritonkitError as error:
            if started:
                raise
            with _in_process(settings, segmenter, kinds, first_line(error)) as (answer, proven_by):
                problems, comparisons = _compare(spec, expected, pictures, answer)
    counts = [len(outputs["boxes"]) for outputs in expected.values()]
    notes = [] if 0 in counts else ["no picture of the verdict is without objects; pass others with `pictures`"]
    if not any(counts):
        problems.append(
            Problem(
                "pipeline.no_objects",
                f"{spec.pipeline.segmenter if spec.pipeline else ''} finds no {members.label} in {origin}, so the "
                "classifier was not compared; set `pictures` to a folder of pictures with some",
            )
        )
    verdict = Verdict(
        passed=not problems,
        format="pipeline",
        precision="fp32",
        proven_by=proven_by,
        images=f"{origin} with {sum(counts)} objects",
        max_batch=0,
        limits=LIMITS,
        comparisons=comparisons,
        problems=tuple(problems),
        notes=tuple(notes),
    )
    return verdict, expected


def _compare(
    spec: ModelSpec, expected: Mapping[str, Outputs], pictures: Mapping[str, bytes], answer: Answer
) -> tuple[list[Problem], tuple[Comparison, ...]]:
    """Compare the answers to all pictures; return problems, and the comparison if there is something to compare."""
    task, problems = task_of(spec), list[Problem]()
    errors, agreement = [np.zeros(1)], []
    for name, outputs in expected.items():
        try:
            actual = answer(pictures[name])
        except (TritonkitError, ImageError) as error:
            problems.append(Problem("pipeline.failed", f"{name}: not answered: {error}"))
            continue
        if (fault := task.value_problem({key: array[None] for key, array in actual.items()})) is not None:
            problems.append(Problem("pipeline.answer", f"{name}: {fault}"))
            continue
        hand, served = ({key: array[None] for key, array in either.items()} for either in (outputs, actual))
        agreement.append(float(task.agreement(hand, served, tie=2 * LIMITS.max_abs)["objects"][0]))
        if not agreement[-1]:
            counts = [len(either["boxes"]) for either in (outputs, actual)]
            message = f"{name}: other boxes, masks or labels than by hand ({counts[1]} objects, by hand {counts[0]})"
            problems.append(Problem("pipeline.objects", message))
            continue
        errors.append(np.abs(outputs["probabilities"].astype(np.float64) - actual["probabilities"]).ravel())
        if (worst := errors[-1].max(initial=0)) > LIMITS.max_abs:
            message = f"{name}: probabilities differ by {worst:.1e} from those by hand, limit {LIMITS.max_abs:g}"
            problems.append(Problem("pipeline.probabilities", message))
    every = np.concatenate(errors)
    comparison = Comparison(
        asked="batch 1",
        images=len(agreement),
        max_abs=float(every.max()),
        mean_abs=float(every.mean()),
        p99_abs=float(np.percentile(every, 99)),
        relative=0.0,
        agreement={"objects": float(np.mean(agreement))} if agreement else {},
        decisions_kept=float(np.mean(agreement)) if agreement else 0.0,
    )
    return problems, (comparison,) if agreement else ()


def save_pictures(path: Path, pictures: Mapping[str, bytes]) -> None:
    """Write the pictures of a verdict as one archive."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in pictures.items():
            archive.writestr(name, data)


def write_page(
    path: Path, spec: ModelSpec, verdict: Verdict, pictures: Mapping[str, bytes], expected: Mapping[str, Outputs]
) -> None:
    """Write the pictures with the answers by hand as one page; a picture with a problem is shown in red."""
    task, faulty = task_of(spec), {problem.message.partition(":")[0] for problem in verdict.problems}
    tiles: list[ContactSheetTile] = []
    for name, outputs in expected.items():
        width, height = (float(side) for side in outputs["size"])
        whole = (0.0, 0.0, width, height)
        answer = task.answer(outputs, Geometry((int(width), int(height)), whole, whole), top=1)
        image, found = decode_image(pictures[name]), _objects(answer.fields)
        if answer.mask is not None:
            image = draw_objects(overlay(image, answer.mask), found, spec.labels)
        caption = task.cells(answer.fields)[0]
        tiles.append(ContactSheetTile(name=name, image=thumbnail(image), caption=caption, failed=name in faulty))
    state = f"verdict {verdict.state}: {' '.join(verdict.summary().split())}"
    write_contact_sheet(path, tiles, spec.name, state)


def _objects(fields: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = fields["objects"]
    return found
