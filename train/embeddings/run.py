"""`train embed`: computes vectors, measures them, and writes them as files, for TensorBoard, and as a map."""

from __future__ import annotations

from pathlib import Path

from train.data import SPLIT_FILES
from train.embeddings.analysis import Method, PrincipalComponents, principal_components, recall_at_ranks
from train.embeddings.files import check_vector_file, write_vectors
from train.embeddings.map_page import render_map
from train.embeddings.pictures import read_pictures
from train.embeddings.projector import check_projector_folder, thumbnail_side, write_projector
from train.embeddings.vectors import embed
from train.evaluate import images_of_run
from tritonkit.errors import Problem
from tritonkit.networks.network import load_network
from tritonkit.remotes import local_path
from tritonkit.remotes.addresses import public_name
from tritonkit.repository.artifact_files import local_artifact
from tritonkit.spec import Frozen
from tritonkit.system.console import progress
from tritonkit.system.files import atomic_write, check_can_write, check_is_html


class EmbeddingReport(Frozen):
    """What was computed from a set of images."""

    checkpoint: str
    data: str
    images: int
    """Number of images with a vector."""
    labelled: int
    unreadable: tuple[Problem, ...]
    """The images that cannot be read."""
    kind: str
    """`embedding`, or `features` of a network without one."""
    dimensions: int
    pca: PrincipalComponents
    recall: dict[str, float | None]
    """Of each labelled image among all others; None where no label has two images; empty without labels."""
    files: tuple[Path, ...]


def embed_images(
    checkpoint: str,
    images: str | None = None,
    output: Path | None = None,
    projector: Path | None = None,
    map_page: Path | None = None,
    method: Method = "pca",
) -> EmbeddingReport:
    """Compute the vectors of images, and write what is named; default: the test images of the checkpoint's run.

    Raises InputError for names that cannot be written, before the work begins, and what `read_pictures` and `embed`
    raise.
    """
    check_is_html(map_page)
    check_can_write(map_page)
    if output is not None:
        check_vector_file(output)
    if projector is not None:
        check_projector_folder(projector)
    path = local_artifact(checkpoint, *(SPLIT_FILES if images is None else ()))
    network = load_network(path)
    data = images_of_run(path, network.spec, "name the images to embed") if images is None else local_path(images)
    pictures = read_pictures(data, network.spec)
    embeddings = embed(network, pictures, thumbnail_side(len(pictures)))
    with progress("principal components"):
        pca, coordinates = principal_components(embeddings.vectors)
    labels = [picture.label for picture in embeddings.pictures]
    recall = recall_at_ranks(embeddings.vectors, labels)
    if output is not None:
        write_vectors(output, embeddings)
    if projector is not None:
        write_projector(projector, embeddings, network.spec.name)
    if map_page is not None:
        with progress("drawing the map"):
            page = render_map(embeddings, coordinates, pca, recall, network.spec.name, method)
        with atomic_write(map_page) as temporary:
            temporary.write_text(page, encoding="utf-8")
    return EmbeddingReport(
        checkpoint=public_name(checkpoint),
        data=public_name(str(images or data)),
        images=len(embeddings.pictures),
        labelled=sum(label is not None for label in labels),
        unreadable=tuple(embeddings.unreadable),
        kind=embeddings.kind,
        dimensions=embeddings.vectors.shape[1],
        pca=pca,
        recall=recall,
        files=tuple(filter(None, (output, projector, map_page))),
    )
