"""`builder index`: embed a gallery, choose the threshold, and publish both with the embedder as one version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builder.index.request import DEFAULT_FALSE_ACCEPT, DEFAULT_NEIGHBORS, IndexRequest
from builder.index.threshold import LeaveOneOut, check_rate, choose_threshold, leave_one_out
from builder.onnx.file import read_onnx
from builder.pipeline import PublishedVersion, export
from builder.repository.shared_files import shared_version, version_spec
from builder.sources import Source, open_source
from builder.sources.search.approximate import build_index, check_faiss, choose_probes, gallery_in_index
from builder.sources.search.gallery import Gallery, Items, embed_items, read_items
from builder.sources.search.graph import check_size, gallery_in, vectors_that_fit
from builder.sources.search.source import (
    check_embedder,
    embedder_bytes,
    embedder_fingerprint,
    is_training_data,
    search_source,
)
from tritonkit.errors import ArtifactError, InputError
from tritonkit.evaluation.evaluate import load_sample
from tritonkit.evaluation.labelled_images import show_notes
from tritonkit.golden import GOLDEN_FILE, MAX_IMAGES, Golden
from tritonkit.images.preprocess import Preprocess
from tritonkit.remotes import local_path
from tritonkit.remotes.addresses import public_name
from tritonkit.runtimes.formats import FAISS, ONNX, ProgressCallback
from tritonkit.spec import Frozen, GallerySpec
from tritonkit.tasks.search import OWN_PATH, UNKNOWN, Search, gallery_of
from tritonkit.triton.backends import backend_of
from tritonkit.triton.model_config import CONFIG_FILE, read_config

SUFFIX = "_search"


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
    index: Any
    """The FAISS index of an approximate search; None where it is exact."""


def index(request: IndexRequest, report: ProgressCallback = lambda step: None) -> PublishedIndex:
    """Publish an embedder and a gallery as the next version of one search model.

    Raises InputError for a model or gallery that does not fit, DataError that lists all problems of the images, and
    what `export` raises.
    """
    source = request.checkpoint
    embedder = source if isinstance(source, Source) else open_source(source, None, None)
    check_embedder(embedder)
    name = request.name or f"{embedder.spec.name}{SUFFIX}"
    base = _published_gallery(request.repository / name, embedder) if request.add else None
    items = read_items(request.gallery, embedder.spec, reserved=UNKNOWN)
    held_out = None if request.held_out is None else read_items(request.held_out, embedder.spec)
    approximate = _check_request(request, embedder, name, items, held_out, base)
    report("embedding the gallery")
    gallery = embed_items(items, embedder.reference)
    is_new, notes = np.ones(len(gallery), np.bool_), list[str]()
    if base is not None:
        gallery, is_new, notes = base.gallery.with_items(gallery)
    if held_out is None and is_training_data(embedder.spec, local_path(request.gallery)):
        notes.append(
            "the embedding model was trained on these images, so it tells their classes apart better than new ones, "
            "and more images of unknown classes will be accepted than --false-accept says; pass images of classes that "
            "it was not trained on with --held-out"
        )
    show_notes(str(request.gallery), notes)
    golden = _golden_sample(items, np.flatnonzero(is_new), embedder.spec.preprocess, public_name(str(request.gallery)))
    if base is not None:
        golden = _merge_golden(base.golden, golden)
    report("choosing the threshold")
    left_out = leave_one_out(gallery)
    unknown = None if held_out is None else embed_items(held_out, embedder.reference)
    settings = _settings(request, embedder, gallery, left_out, unknown, base)
    faiss_index = None
    if approximate:
        report("building the index")
        faiss_index = build_index(gallery, None if base is None else base.index)
        recall = choose_probes(faiss_index, gallery, settings.neighbors, None if unknown is None else unknown.vectors)
        settings = settings.model_copy(update={"approximate_recall": recall})
    search = search_source(embedder, gallery, settings, name, left_out.recall)
    search = replace(search, golden=golden, index=faiss_index)
    published = export(request.export_request(search, approximate), report, None if base is None else base.version)
    return PublishedIndex(
        published=published,
        gallery=settings,
        classes=len(gallery.classes),
        added=int(is_new.sum()),
        recall=left_out.recall,
    )


def _check_request(
    request: IndexRequest,
    embedder: Source,
    name: str,
    items: Items,
    held_out: Items | None,
    base: PublishedGallery | None,
) -> bool:
    """Check before the first image is embedded; return whether a FAISS index will search.

    Raises InputError, SpecError for an invalid name, ArtifactError where FAISS is missing.
    """
    embedder.spec.renamed(name)
    labels, paths = items.labels.tolist(), items.paths.tolist()
    if base is not None:
        labels, paths = [*base.gallery.labels.tolist(), *labels], [*base.gallery.paths.tolist(), *paths]
    others = embedder_bytes(embedder) + sum(len(path.encode()) for path in paths)
    approximate = _is_approximate(request, embedder, name, len(labels), others)
    _neighbors(request, len(labels), base)
    rate = _rate(request, base)
    if held_out is None and base is not None and base.settings.held_out is not None:
        raise InputError(
            f"--add: the threshold was chosen on {base.settings.held_out}, and depends on the gallery; pass them again "
            "with --held-out",
            code="index.held_out_needed",
        )
    if held_out is None:
        check_rate(np.array(labels), rate, "the gallery")
        return approximate
    check_rate(held_out.labels, rate, public_name(str(request.held_out)))
    if known := sorted(set(held_out.labels.tolist()) & set(labels)):
        raise InputError(
            f"--held-out {request.held_out}: {len(known)} of its classes are in the gallery: {', '.join(known[:3])}"
            f"{', …' if len(known) > 3 else ''}; the threshold needs classes that are not in it",
            code="index.held_out_known",
        )
    return approximate


def _is_approximate(request: IndexRequest, embedder: Source, name: str, items: int, others: int) -> bool:
    """Return whether a FAISS index will search. others: bytes of all but the vectors in an ONNX file.

    Raises InputError where the published versions of the model are searched in the other way, or the gallery is too
    large to be searched exactly, ArtifactError where FAISS is missing.
    """
    size, model = embedder.spec.outputs[0].shape[0], request.repository / name
    published = backend_of(read_config(model)) == FAISS.backend if (model / CONFIG_FILE).is_file() else None
    approximate = request.approximate
    if published is not None:
        if approximate not in (None, published):
            option = "--approximate" if approximate else "--no-approximate"
            raise InputError(
                f"{option}: the published versions of {model} are searched in the other way, and Triton loads all "
                "versions of a model alike. Leave the option out, or publish the whole gallery under another --name",
                code="index.other_search",
            )
        approximate = published
    elif approximate is None:
        approximate = items > vectors_that_fit(size, others)
    if approximate:
        check_faiss()
    else:
        check_size(items, size, name, others)
    return approximate


def _neighbors(request: IndexRequest, items: int, base: PublishedGallery | None) -> int:
    """Return the number of neighbours in an answer. Raises InputError where the gallery has fewer items."""
    chosen = request.neighbors or (base.settings.neighbors if base else min(DEFAULT_NEIGHBORS, items))
    if chosen > items:
        raise InputError(f"--neighbors {chosen}: the gallery has only {items} images", code="index.too_many_neighbors")
    return chosen


def _rate(request: IndexRequest, base: PublishedGallery | None) -> float:
    return request.false_accept or (base.settings.false_accept if base else DEFAULT_FALSE_ACCEPT)


def _settings(
    request: IndexRequest,
    embedder: Source,
    gallery: Gallery,
    left_out: LeaveOneOut,
    unknown: Gallery | None,
    base: PublishedGallery | None,
) -> GallerySpec:
    """Choose the threshold, and what the request leaves open; unknown: the held-out images. Raises InputError."""
    neighbors, rate = _neighbors(request, len(gallery), base), _rate(request, base)
    if unknown is None:
        threshold, held_out = choose_threshold(left_out.other_class, left_out.labels, rate, "the gallery"), None
    else:
        nearest, _ = gallery.search(unknown.vectors, 1)
        origin = public_name(str(request.held_out))
        threshold = choose_threshold(nearest[:, 0], unknown.labels, rate, origin)
        held_out = f"{len(unknown):,} images of {len(unknown.classes)} classes of {origin}"
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
    settings = gallery_of(spec)
    if settings.embedder != embedder_fingerprint(embedder):
        raise InputError(
            f"--add: {embedder.path} is not the embedder of {model.name} version {version}: its vectors cannot be "
            "compared with those of that gallery. Pass the checkpoint of that version, or publish the whole gallery "
            "with this one, without --add",
            code="index.other_embedder",
        )
    faiss_index, artifact = None, folder / (ONNX if settings.approximate_recall is None else FAISS).file
    if settings.approximate_recall is None:
        gallery = gallery_in(read_onnx(artifact), str(artifact))
    else:
        gallery, faiss_index = gallery_in_index(artifact)
    if gallery.fingerprint != settings.fingerprint:
        raise ArtifactError(
            f"{artifact}: its gallery was changed since it was published (its hash differs); publish the "
            "whole gallery again, without --add",
            code="index.changed_gallery",
        )
    return PublishedGallery(version, gallery, settings, Golden.load(folder / GOLDEN_FILE), faiss_index)


def _golden_rows(labels: Sequence[str]) -> list[int]:
    """Choose evenly spaced images for the verdict, of classes with several images if there are any."""
    counts = Counter(labels)
    rows = [row for row, label in enumerate(labels) if counts[label] > 1] or list(range(len(labels)))
    places = np.linspace(0, len(rows) - 1, min(len(rows), MAX_IMAGES)).round().astype(int)
    return [rows[place] for place in np.unique(places)]


def _golden_sample(items: Items, rows: NDArray[np.int_], preprocess: Preprocess, origin: str) -> Golden:
    """Read the images for the verdict again; rows: of the items that are in the gallery."""
    chosen = rows[_golden_rows(items.labels[rows].tolist())]
    images = [load_sample(items.samples[row], preprocess)[0] for row in chosen]
    targets = {Search.output_name: items.labels[chosen], OWN_PATH: items.paths[chosen]}
    return Golden(np.stack(images), {}, targets, source=f"{len(images)} pictures of the gallery {origin}")


def _merge_golden(old: Golden, new: Golden) -> Golden:
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
