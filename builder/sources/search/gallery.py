"""A gallery: the vectors of labelled images, and the exact search in them that every artifact is compared with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tritonkit.errors import InputError, Problem
from tritonkit.evaluation.evaluate import BATCH_SIZE, answer_batches
from tritonkit.evaluation.labelled_images import (
    check_files,
    check_labels,
    raise_if_any,
    read_data,
    show_notes,
)
from tritonkit.evaluation.labelled_tables import part_paths
from tritonkit.evaluation.samples.sample import Sample, listed, summarized
from tritonkit.evaluation.tasks import evaluation_task_of, recorded_data
from tritonkit.evaluation.tasks.base import natural_sort_key
from tritonkit.remotes import local_path
from tritonkit.runtimes.base import Runner
from tritonkit.spec import ModelSpec
from tritonkit.system.console import track_progress

Vectors = NDArray[np.float32]
"""Embeddings of unit length, [N, D]."""
SAME_IMAGE = 1e-6
"""Vectors that are nearer than this cosine distance are those of one image."""
SAME_FILE = 1e-5
"""The same for vectors with the same path: one embedder on two machines differs by more than on one."""
_MAX_DISTANCES, _MIN_QUERIES = 2**25, 32
"""Number of distances that are computed at once, to limit memory: 128 MB, and more where the gallery is large."""


@dataclass(frozen=True)
class Gallery:
    """Items in a fixed order. vectors: [N, D], unit length; labels and paths: str [N]; no path stands twice."""

    vectors: Vectors
    labels: NDArray[np.str_]
    paths: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels, each once, in natural order."""
        return tuple(sorted(set(self.labels.tolist()), key=natural_sort_key))

    @property
    def numbered_labels(self) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
        """The classes, str [C], and the class of each item, int64 [N]."""
        numbers = {label: number for number, label in enumerate(self.classes)}
        return np.array(self.classes, np.str_), np.array([numbers[label] for label in self.labels.tolist()], np.int64)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of vectors, labels and paths."""
        digest = hashlib.sha256(np.ascontiguousarray(self.vectors).data)
        for texts in (self.labels, self.paths):
            digest.update("\0".join([*texts.tolist(), ""]).encode())
        return digest.hexdigest()

    def search(self, queries: Vectors, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the cosine distances and indices of the nearest items of each query, [M, count], nearest first.

        Of equally near items the one with the lower index comes first, as in ONNX's TopK.
        """
        rows = queries_at_once(len(self))
        parts = [self._search(queries[start : start + rows], count) for start in range(0, len(queries), rows)]
        distances, indices = zip(*parts, strict=True)
        return np.concatenate(distances), np.concatenate(indices)

    def _search(self, queries: Vectors, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        distances = np.clip(1 - queries @ self.vectors.T, 0, 2)
        # The items up to the last distance that counts, and no others, are sorted.
        last = np.partition(distances, count - 1, axis=1)[:, count - 1]
        indices = np.empty((len(queries), count), np.int64)
        for row, limit in enumerate(last):
            near = np.flatnonzero(distances[row] <= limit)
            indices[row] = near[np.argsort(distances[row, near], kind="stable")[:count]]
        return np.take_along_axis(distances, indices, axis=1), indices

    def with_items(self, added: Gallery) -> tuple[Gallery, NDArray[np.bool_], list[str]]:
        """Return the gallery with more items, which of them are new, bool [A], and notes. The others are left out.

        Raises InputError where an image has another label in the gallery, where a path stands for another image, and
        where nothing is left to add.
        """
        distances, nearest = self.search(added.vectors, 1)
        is_same = distances[:, 0] < np.where(self.paths[nearest[:, 0]] == added.paths, SAME_FILE, SAME_IMAGE)
        pairs = list(zip(added.paths, added.labels, self.paths[nearest[:, 0]], self.labels[nearest[:, 0]], strict=True))
        relabelled = [
            f"{path} ({label}) is {other} ({other_label})"
            for (path, label, other, other_label), same in zip(pairs, is_same, strict=True)
            if same and label != other_label
        ]
        problems = listed(
            "images that the gallery has with another label; publish the whole gallery again without --add to change "
            "a label",
            relabelled,
            code="index.other_label",
        )
        is_new = ~is_same
        taken = sorted(set(added.paths[is_new].tolist()) & set(self.paths.tolist()))
        problems += listed(
            "paths that the gallery has for other images; rename the files, or publish the whole gallery again without "
            "--add",
            taken,
            code="index.path_taken",
        )
        if not is_new.any() and not problems:
            problems.append(Problem("index.nothing_new", f"all {len(added)} images are in the gallery already"))
        if problems:
            text = "\n".join(map(str, problems))
            code = problems[0].code if len(problems) == 1 else "index.cannot_add"
            raise InputError(text, code=code, problems=problems)
        known = [str(path) for path in added.paths[is_same]]
        notes = summarized("images that are in the gallery already", known)
        merged = Gallery(
            np.concatenate([self.vectors, added.vectors[is_new]]),
            np.concatenate([self.labels, added.labels[is_new]]),
            np.concatenate([self.paths, added.paths[is_new]]),
        )
        return merged, is_new, notes


def queries_at_once(items: int) -> int:
    """Return the number of queries that are compared with all items of a gallery in one step."""
    return max(_MIN_QUERIES, _MAX_DISTANCES // items)


@dataclass(frozen=True)
class Items:
    """Labelled images to embed, with their paths as the gallery stores them."""

    samples: Sequence[Sample]
    paths: NDArray[np.str_]

    @property
    def labels(self) -> NDArray[np.str_]:
        """str [N]."""
        return np.array([sample.truth for sample in self.samples], np.str_)


def read_items(location: Path | str, spec: ModelSpec, reserved: str | None = None) -> Items:
    """Read labelled images: a folder of class folders, or a table, and check every file.

    reserved: a label that no image may have. Of images with the same content only the first is kept. Raises InputError
    for a folder with parts, DataError that lists all problems of the data.
    """
    path, task = local_path(location), evaluation_task_of(spec)
    if path.is_dir() and (parts := part_paths(path)):
        raise InputError(
            f"{path}: has the parts {', '.join(parts)}; choose the one to use, such as {next(iter(parts.values()))}",
            code="index.parts",
        )
    data = read_data(recorded_data(spec, path), task, ("train",))
    samples = sorted(data.samples["train"], key=lambda sample: sample.path)
    digests, unusable = check_files(samples, task, spec)
    problems = data.problems + unusable + check_labels(samples, digests, task, data.notes)
    if named := [str(sample.path) for sample in samples if sample.truth == reserved]:
        heading = f"images of a class named {reserved}, which is the answer for images of no class; rename it"
        problems += listed(heading, named, code="index.reserved_label")
    if not samples and not problems:
        problems.append(Problem("data.no_images", "there are no labelled images"))
    raise_if_any(path, problems)
    unique = {digests[sample.path]: sample for sample in reversed(samples)}
    kept = [sample for sample in samples if unique[digests[sample.path]] is sample]
    copies = [str(sample.path) for sample in samples if unique[digests[sample.path]] is not sample]
    show_notes(path, [*data.notes, *summarized("images that exist twice; the first of each is used", copies)])
    root = path if path.is_dir() else path.parent
    return Items(kept, np.array(_stored_paths([sample.path for sample in kept], root), np.str_))


def _stored_paths(files: Sequence[Path], folder: Path) -> list[str]:
    """Return paths relative to a folder, or, where files lie outside of it, to the deepest folder that has them all.

    No path tells where the folder lies on this machine.
    """
    paths, root = [Path(os.path.abspath(file)) for file in files], Path(os.path.abspath(folder))  # noqa: PTH100 - no links
    if not all(path.is_relative_to(root) for path in paths):
        root = Path(os.path.commonpath([path.parent for path in paths]))
    return [path.relative_to(root).as_posix() for path in paths]


def embed_items(items: Items, embedder: Runner) -> Gallery:
    """Return the items with their vectors."""
    task, name = evaluation_task_of(embedder.spec), embedder.spec.outputs[0].name
    vectors = []
    batches = answer_batches(embedder, items.samples, task)
    for batch in track_progress(batches, "embedding images", -(-len(items.samples) // BATCH_SIZE)):
        vectors.append(batch.outputs[name].astype(np.float32))
    return Gallery(np.concatenate(vectors), items.labels, items.paths)
