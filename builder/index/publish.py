"""`builder index`: embed a gallery, choose the threshold, and publish both with the embedder as one version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from builder.index.request import DEFAULT_FALSE_ACCEPT, DEFAULT_NEIGHBORS, IndexRequest
from builder.index.threshold import LeaveOneOut, choose_threshold, leave_one_out
from builder.onnx.file import read_onnx
from builder.pipeline import PublishedVersion, export
from builder.repository.shared_files import shared_version, version_spec
from builder.sources import Source, open_source
from builder.sources.search.gallery import Gallery, embed_items, read_items
from builder.sources.search.graph import check_size, gallery_in
from builder.sources.search.source import (
    check_embedder,
    embedder_fingerprint,
    gallery_spec,
    search_source,
)
from tritonkit.comparison import infer_in_batches
from tritonkit.errors import ArtifactError, InputError
from tritonkit.golden import GOLDEN_FILE, MAX_IMAGES, Golden
from tritonkit.images.preprocess import ImageArray
from tritonkit.remotes.addresses import public_name
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import ONNX, ProgressCallback
from tritonkit.spec import Frozen, GallerySpec
from tritonkit.system.console import warn
from tritonkit.tasks.search import OWN_PATH, Search
from tritonkit.triton.model_config import CONFIG_FILE

SUFFIX = "_search"
_BATCH = 8
_SAME_EMBEDDER = 1e-3
"""The largest cosine distance between two vectors of one image by one embedder, on different machines."""


class PublishedIndex(Frozen):
    """A search model that was published."""

    published: PublishedVersion
    gallery: GallerySpec
    classes: int
    added: int
    """Items that this version has in addition to the one that it extends; all items of a new gallery."""
    recall: dict[str, float]
    """recall@k of the items, each searched for among the others."""


@dataclass(frozen=True)
class PublishedGallery:
    """The gallery of a version, which is extended."""

    version: int
    gallery: Gallery
    settings: GallerySpec
    golden: Golden


def index(request: IndexRequest, report: ProgressCallback = lambda step: None) -> PublishedIndex:
    """Publish an embedder and a gallery as the next version of one search model.

    Raises InputError for a model or gallery that does not fit, DataError that lists all problems of the images, and
    what `export` raises.
    """
    given = request.checkpoint
    embedder = given if isinstance(given, Source) else open_source(given, None, None)
    check_embedder(embedder)
    name = request.name or f"{embedder.spec.name}{SUFFIX}"
    extended = _published_gallery(request.repository / name, embedder) if request.add else None
    items = read_items(request.gallery, embedder.spec)
    check_size(len(items.samples) + (len(extended.gallery) if extended else 0), _size(embedder), name)
    held_out = None if request.held_out is None else read_items(request.held_out, embedder.spec)
    report("embedding the gallery")
    runner = embedder.reference
    kept: dict[int, ImageArray] = {}
    golden_rows = set(_golden_rows(items.labels.tolist()))
    gallery = embed_items(items, runner, lambda row, image: kept.update({row: image}) if row in golden_rows else None)
    golden = _golden_sample(gallery, kept, public_name(str(request.gallery)))
    if extended is not None:
        _check_vectors(runner, extended)
        golden = _joined(extended.golden, golden)
        gallery, notes = extended.gallery.extended(gallery)
        for note in notes:
            warn(f"note: {request.gallery}: {note}")
    report("choosing the threshold")
    left_out = leave_one_out(gallery)
    unknown = None if held_out is None else embed_items(held_out, runner)
    settings = _settings(request, embedder, gallery, left_out, unknown, extended)
    source = replace(search_source(embedder, gallery, settings, name, left_out.recall), golden=golden)
    published = export(request.export_request(source), report)
    return PublishedIndex(
        published=published,
        gallery=settings,
        classes=len(gallery.classes),
        added=len(gallery) - (len(extended.gallery) if extended else 0),
        recall=left_out.recall,
    )


def _size(embedder: Source) -> int:
    return embedder.spec.outputs[0].shape[0]


def _settings(
    request: IndexRequest,
    embedder: Source,
    gallery: Gallery,
    left_out: LeaveOneOut,
    unknown: Gallery | None,
    extended: PublishedGallery | None,
) -> GallerySpec:
    """Choose what the request leaves open; unknown: the held-out images. Raises InputError."""
    before = None if extended is None else extended.settings
    neighbors = request.neighbors or (before.neighbors if before else min(DEFAULT_NEIGHBORS, len(gallery)))
    if neighbors > len(gallery):
        raise InputError(
            f"--neighbors {neighbors}: the gallery has only {len(gallery)} images", code="index.too_many_neighbors"
        )
    rate = request.false_accept or (before.false_accept if before else DEFAULT_FALSE_ACCEPT)
    if unknown is not None:
        if known := sorted(set(unknown.classes) & set(gallery.classes)):
            raise InputError(
                f"--held-out {request.held_out}: {', '.join(known):.200} are classes of the gallery; the threshold "
                "needs classes that are not in it",
                code="index.held_out_known",
            )
        nearest, _ = gallery.search(unknown.vectors, 1)
        origin = public_name(str(request.held_out))
        threshold = choose_threshold(nearest[:, 0], unknown.labels, rate, origin)
        held_out = f"{len(unknown):,} images of {len(unknown.classes)} classes of {origin}"
    elif before is not None and before.held_out is not None:
        raise InputError(
            f"--add: the threshold was chosen on {before.held_out}, and depends on the gallery; pass them again with "
            "--held-out",
            code="index.held_out_needed",
        )
    else:
        threshold, held_out = choose_threshold(left_out.other_class, left_out.labels, rate, "the gallery"), None
    return GallerySpec(
        items=len(gallery),
        neighbors=neighbors,
        threshold=threshold.distance,
        false_accept=rate,
        false_accept_error=threshold.error,
        false_reject=left_out.false_reject(threshold.distance),
        held_out=held_out,
        embedder=embedder_fingerprint(embedder),
        fingerprint=gallery.fingerprint,
    )


def _published_gallery(model: Path, embedder: Source) -> PublishedGallery:
    """Read the gallery of the newest version that is served. Raises InputError, ArtifactError where it does not fit."""
    if not (model / CONFIG_FILE).is_file():
        raise InputError(
            f"--add: {model} is not published yet; leave the option out to publish the first gallery",
            code="index.not_published",
        )
    version = shared_version(model)
    if version is None:
        raise InputError(
            f"--add: Triton loads no version of {model.name}; choose one with: builder promote {model.name} VERSION",
            code="index.no_version",
        )
    folder, spec = model / str(version), version_spec(model, version)
    settings = gallery_spec(spec)
    if settings.embedder != embedder_fingerprint(embedder):
        raise InputError(
            f"--add: {embedder.path} is not the embedder of {model.name} version {version}: its vectors cannot be "
            "compared with those of that gallery. Pass the checkpoint of that version, or publish the whole gallery "
            "with this one, without --add",
            code="index.other_embedder",
        )
    gallery = gallery_in(read_onnx(folder / ONNX.file), str(folder / ONNX.file))
    if gallery.fingerprint != settings.fingerprint:
        raise ArtifactError(
            f"{folder / ONNX.file}: its gallery was changed since it was published (its hash differs); publish the "
            "whole gallery again, without --add",
            code="index.changed_gallery",
        )
    return PublishedGallery(version, gallery, settings, Golden.load(folder / GOLDEN_FILE))


def _check_vectors(embedder: Runner, extended: PublishedGallery) -> None:
    """Raise InputError where the embedder gives other vectors for images of the gallery than it has for them."""
    golden, gallery = extended.golden, extended.gallery
    own = golden.targets.get(OWN_PATH, np.array([], np.str_))
    rows = [row for row, path in enumerate(own.tolist()) if path]
    if not rows:
        return
    places = {path: place for place, path in enumerate(gallery.paths.tolist())}
    stored = gallery.vectors[[places[own[row]] for row in rows]]
    vectors = infer_in_batches(embedder, golden.images[rows], _BATCH)[embedder.spec.outputs[0].name]
    distances = 1 - (vectors * stored).sum(axis=1)
    if (worst := float(distances.max())) > _SAME_EMBEDDER:
        raise InputError(
            f"--add: the vector of {own[rows[int(distances.argmax())]]} in the gallery differs from that of "
            f"{embedder.origin} by a cosine distance of {worst:.3g}: another embedder made it. Publish the whole "
            "gallery again, without --add",
            code="index.foreign_vectors",
        )


def _golden_rows(labels: Sequence[str]) -> list[int]:
    """Choose evenly spaced images for the verdict, of classes with several images if there are any."""
    counts = Counter(labels)
    rows = [row for row, label in enumerate(labels) if counts[label] > 1] or list(range(len(labels)))
    places = np.linspace(0, len(rows) - 1, min(len(rows), MAX_IMAGES)).round().astype(int)
    return [rows[place] for place in np.unique(places)]


def _golden_sample(gallery: Gallery, images: dict[int, ImageArray], origin: str) -> Golden:
    rows = sorted(images)
    targets = {Search.output_name: gallery.labels[rows], OWN_PATH: gallery.paths[rows]}
    return Golden(
        np.stack([images[row] for row in rows]), {}, targets, source=f"{len(rows)} pictures of the gallery {origin}"
    )


def _joined(old: Golden, new: Golden) -> Golden:
    """Take half of the images from each sample, as far as both have them."""
    half = MAX_IMAGES // 2
    first = old.images[: max(half, MAX_IMAGES - len(new.images))]
    second = new.images[: MAX_IMAGES - len(first)]
    targets = {
        name: np.concatenate([old.targets[name][: len(first)], new.targets[name][: len(second)]])
        for name in new.targets
        if name in old.targets
    }
    source = f"{len(first)} pictures of the earlier version, {len(second)} pictures that were added"
    return Golden(np.concatenate([first, second]), {}, targets, source=source)
