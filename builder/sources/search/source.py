"""The source of a search model: an embedder and a gallery. Every artifact must answer as both do in numpy."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx

from builder.artifacts import inspect_artifact
from builder.onnx.file import read_onnx, save_onnx
from builder.sources.base import Source, TrainedReference
from builder.sources.search.approximate import gallery_in_index
from builder.sources.search.gallery import Gallery
from builder.sources.search.graph import append_search, gallery_in
from tritonkit.errors import InputError
from tritonkit.export_options import OutputOptions
from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import FAISS, ONNX, Precision, format_of
from tritonkit.spec import METADATA_KEY, GallerySpec, Lineage, ModelSpec, Outputs
from tritonkit.system.files import file_sha256
from tritonkit.tasks import task_for, task_of
from tritonkit.tasks.embedding import Embedding
from tritonkit.tasks.search import Search, gallery_of, known_or_unknown


class SearchRunner(Runner):
    """Runs the embedder, and searches its vectors in the gallery, exactly."""

    def __init__(self, spec: ModelSpec, embedder: Runner, gallery: Gallery) -> None:
        self.spec, self.embedder, self.gallery = spec, embedder, gallery
        self.origin = f"{embedder.origin} with an exact search"

    def _infer(self, batch: ImageArray) -> Outputs:
        settings = gallery_of(self.spec)
        vectors = self.embedder.infer(batch)[self.embedder.spec.outputs[0].name]
        distance, index = self.gallery.search(vectors, settings.neighbors)
        label = self.gallery.labels[index]
        return {
            "answer": known_or_unknown(settings, distance, label),
            "label": label,
            "path": self.gallery.paths[index],
            "distance": distance,
        }


@dataclass(frozen=True)
class SearchSource(Source):
    """An embedder with a gallery."""

    embedder: Source
    gallery: Gallery
    search_spec: ModelSpec
    index: Any = None
    """The FAISS index of an approximate search; None: the graph searches, exactly."""

    @property
    def spec(self) -> ModelSpec:
        return self.search_spec

    @property
    def reference(self) -> Runner:
        return SearchRunner(self.search_spec, self.embedder.reference, self.gallery)

    @property
    def training(self) -> TrainedReference | None:
        return self.embedder.training

    def write_graph(self, path: Path) -> None:
        self.embedder.write_graph(path)
        model = onnx.load(path)
        if self.index is None:
            append_search(model, self.gallery, self.search_spec)
        onnx.helper.set_model_props(model, {METADATA_KEY: self.search_spec.to_json()})
        save_onnx(model, path, origin=self.search_spec.name)

    def check_precision(self, precision: Precision) -> None:
        if precision != "fp32":
            raise InputError(
                f"{self.search_spec.name}: a search model is exported in fp32, not in {precision}, because its "
                "distances decide",
                code="index.precision",
            )

    def with_output_options(self, options: OutputOptions) -> Self:
        if options.threshold is not None or options.probability:
            raise InputError(
                f"{self.search_spec.name}: --threshold and --probability are no options of a search; its threshold "
                "follows from --false-accept",
                code="index.output_options",
            )
        return self


def check_embedder(source: Source) -> None:
    """Raise InputError unless a source is an embedding model in fp32."""
    if not isinstance(task_of(source.spec), Embedding):
        raise InputError(
            f"{source.path}: is a {source.spec.task} model, and a gallery needs vectors; train an embedding model "
            "(`task: embedding`), and index that",
            code="index.no_embedder",
        )
    if source.precision != "fp32":
        raise InputError(
            f"{source.path}: computes in {source.precision}; pass the checkpoint, or its fp32 graph",
            code="index.embedder_precision",
        )


def embedder_fingerprint(source: Source) -> str:
    """Return the SHA-256 of what decides an embedder's vectors: its weights and its preprocessing."""
    spec = source.spec
    parts = spec.model_dump(mode="json", include={"architecture", "preprocess", "normalize", "embedding_size"})
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    if source.network is None:
        digest.update(file_sha256(source.path).encode())
        return digest.hexdigest()
    for name, tensor in sorted(source.network.state_dict().items()):
        array = tensor.detach().cpu().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def embedder_bytes(source: Source) -> int:
    """Return the size of an embedder in the file of a search model."""
    if source.network is None:
        return source.path.stat().st_size
    return sum(tensor.numel() * tensor.element_size() for tensor in source.network.state_dict().values())


def is_training_data(spec: ModelSpec, images: Path) -> bool:
    """Return whether a model was trained on these images, or on a folder around them, as its lineage says."""
    data = spec.lineage.config.get("data")
    path = data.get("path") if isinstance(data, dict) else None
    return isinstance(path, str) and images.resolve().is_relative_to(Path(path).resolve())


def search_source(
    embedder: Source, gallery: Gallery, settings: GallerySpec, name: str, metrics: dict[str, float]
) -> SearchSource:
    """Combine an embedder and a gallery.

    metrics: of the gallery; they take the place of those of the embedder's training. Raises SpecError for an invalid
    name.
    """
    spec = embedder.spec
    lineage = Lineage(config=spec.lineage.config, parent=spec.name, metrics=metrics, warnings=spec.lineage.warnings)
    task_spec = {"task": Search.name, "labels": gallery.classes, "gallery": settings}
    changed = spec.model_copy(update={**task_spec, "lineage": lineage})
    changed = changed.model_copy(update={"outputs": task_for(changed).outputs(spec.input)})
    description = f"{embedder.description} with a gallery of {len(gallery):,} images of {len(gallery.classes)} classes"
    return SearchSource(embedder.path, None, description, embedder, gallery, changed.renamed(name))


def source_for_artifact(embedder: Source, artifact: Path) -> Source:
    """Return the source that an artifact is compared with: for a search model, the embedder with its gallery.

    A gallery whose vectors another embedder made fails in the verdict, by the fingerprint in the spec.
    """
    kind = format_of(artifact)
    if kind not in (ONNX, FAISS) or not isinstance(task_of(embedder.spec), Embedding):
        return embedder
    found = inspect_artifact(artifact).spec
    if found is None or found.gallery is None:
        return embedder
    gallery = gallery_in(read_onnx(artifact), str(artifact)) if kind is ONNX else gallery_in_index(artifact)[0]
    update = {"embedder": embedder_fingerprint(embedder), "fingerprint": gallery.fingerprint, "items": len(gallery)}
    return search_source(embedder, gallery, found.gallery.model_copy(update=update), found.name, {})
