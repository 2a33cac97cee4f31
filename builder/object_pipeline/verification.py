"""The verdict of a pipeline: as served by Triton, it answers as its steps done one after the other by hand.

By hand: the artifacts of both models are opened in this process, and the objects are classified one at a time.
"""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from builder.object_pipeline.members import Members
from builder.sources.images import PHOTOS
from tritonkit.comparison import Comparison, Limits
from tritonkit.errors import CheckFailedError, DataError, Problem, TritonkitError
from tritonkit.images.crops import crop_object
from tritonkit.images.objects import objects_of, to_rle
from tritonkit.images.picture_files import pictures_below
from tritonkit.images.pipeline import Pipeline
from tritonkit.images.preprocess import Geometry, ImageError, decode_image, fit_image, read_picture
from tritonkit.pages.contact_sheet import ContactSheetTile, draw_objects, thumbnail, write_contact_sheet
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
AnswerPicture = Callable[[bytes], Outputs]
NO_TRITON = {
    "docker.no_image",
    "docker.no_sdk",
    "docker.unreachable",
    "install.missing_command",
    "server.broken_environment",
    "server.no_triton",
}
"""Codes of `server up` on a machine that has no Triton to start."""
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


def by_hand(members: Members, segmenter: Runner, classifier: Runner) -> AnswerPicture:
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
def _serving_members(members: Members, staged: Path, name: str, runtime: str) -> Iterator[int]:
    """Serve the members, next to the staged pipeline; yield the gRPC port.

    Raises TritonkitError where Triton cannot serve them here.
    """
    check_commands("server")
    repository, models = staged.with_name(f"{staged.name}.served"), list[str]()
    try:
        for folder in (members.segmenter.folder.path, members.classifier.folder.path):
            shutil.copytree(folder, repository / folder.name, copy_function=os.link)
            models += ["--model", folder.name]
        shutil.copytree(staged, repository / name, copy_function=os.link)
        with serving(repository, *models, "--runtime", runtime) as port:
            yield port
    finally:
        shutil.rmtree(repository, ignore_errors=True)


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
        answer, started = by_hand(members, segmenter, kinds), False
        expected = {name: answer(data) for name, data in pictures.items()}
        report("starting Triton")
        try:
            with _serving_members(members, staged, spec.name, runtime) as port:
                started, proven_by = True, f"the pipeline as served by Triton ({runtime})"
                report("comparing the served pipeline")
                problems, comparison = _compare_served(spec, expected, pictures, port)
        except TritonkitError as error:
            if started:
                raise
            if {problem.code for problem in error.problems or (error,)} <= NO_TRITON:
                proven_by = f"the code of the pipeline in this process, because there is no Triton here: {error}"
                steps = Pipeline(
                    settings.model_dump(mode="json"),
                    lambda batch: segmenter.infer(batch)["mask"],
                    lambda batch: kinds.infer(batch)["probabilities"],
                )
                problems, comparison = _compare(spec, expected, pictures, lambda data: decode_text(steps.answer(data)))
            else:
                proven_by, comparison = "nothing, because Triton does not serve both models", None
                message = f"Triton does not serve both models, so the pipeline cannot answer: {error}"
                problems = [Problem("pipeline.member_not_served", message)]
    counts = [len(outputs["boxes"]) for outputs in expected.values()]
    if not any(counts):
        message = (
            f"{members.segmenter.folder.name} finds no {members.label} in {origin}, so the classifier was not "
            "compared; set `pictures` to a folder of pictures with some"
        )
        problems.append(Problem("pipeline.no_objects", message))
    verdict = Verdict(
        passed=not problems,
        format="pipeline",
        precision="fp32",
        proven_by=proven_by,
        images=f"{origin} with {sum(counts)} objects",
        max_batch=0,
        limits=LIMITS,
        comparisons=() if comparison is None else (comparison,),
        problems=tuple(problems),
        notes=() if 0 in counts else ("no picture of the verdict is without objects; pass others with `pictures`",),
    )
    return verdict, expected


def _compare_served(
    spec: ModelSpec, expected: Mapping[str, Outputs], pictures: Mapping[str, bytes], port: int
) -> tuple[list[Problem], Comparison | None]:
    """Load the pipeline into the Triton that serves its members, and compare its answers."""
    from tritonkit.triton.client import TritonClient
    from tritonkit.triton.runner import TritonRunner

    try:
        run_command("server", "load", spec.name, "--grpc-port", port)
    except CheckFailedError as error:
        return [Problem("pipeline.not_loaded", str(error))], None
    with TritonRunner(TritonClient(f"127.0.0.1:{port}"), spec.name) as runner:
        return _compare(spec, expected, pictures, runner.infer_encoded)


def _compare(
    spec: ModelSpec, expected: Mapping[str, Outputs], pictures: Mapping[str, bytes], answer: AnswerPicture
) -> tuple[list[Problem], Comparison | None]:
    """Compare the answers to all pictures; return problems, and the comparison if there is an answer."""
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
    if not agreement:
        return problems, None
    every = np.concatenate(errors)
    comparison = Comparison(
        asked="batch 1",
        images=len(agreement),
        max_abs=float(every.max()),
        mean_abs=float(every.mean()),
        p99_abs=float(np.percentile(every, 99)),
        relative=0.0,
        agreement={"objects": float(np.mean(agreement))},
        decisions_kept=float(np.mean(agreement)),
    )
    return problems, comparison


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
        size = (int(outputs["size"][0]), int(outputs["size"][1]))
        answer = task.answer(outputs, Geometry(size, (0.0, 0.0, *size), (0.0, 0.0, *size)), top=1)
        image = draw_objects(decode_image(pictures[name]), answer.fields["objects"], spec.labels)
        caption = task.cells(answer.fields)[0]
        tiles.append(ContactSheetTile(name=name, image=thumbnail(image), caption=caption, failed=name in faulty))
    write_contact_sheet(path, tiles, spec.name, f"verdict {verdict.state}: {' '.join(verdict.summary().split())}")
