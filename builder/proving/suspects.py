"""Known faults of exported graphs: each in words, with the answers that a graph which has it would give."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import torch

from builder.terms import OutputOptions, in_terms
from model.comparison import ask
from model.errors import InputError
from model.network import Network
from model.preprocess import ImageArray
from model.runners.base import Outputs
from model.runners.pytorch import TorchRunner
from model.spec import Normalize, TaskSpec
from model.tasks import task_for

Suspect = tuple[str, Outputs]

_IMAGENET = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_USUAL = {
    "ImageNet's": _IMAGENET,
    "0.5 and 0.5": Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "0 and 1 (pixels only scaled to 0..1)": Normalize(mean=(0, 0, 0), std=(1, 1, 1)),
    "none (pixels in 0..255)": Normalize(mean=(0, 0, 0), std=(1 / 255, 1 / 255, 1 / 255)),
    "CLIP's": Normalize(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)),
}


def suspects(network: Network, probes: ImageArray, right: Outputs, actual: Outputs) -> Iterator[Suspect]:
    """Every known fault that a graph of this network can have.

    probes: uint8 [N, H, W, 3]; right and actual: the network's and the graph's answers to them.
    """
    yield from _of_the_input(network, probes)
    yield from _of_normalisation(network, probes)
    yield from _of_labels(network, right)
    yield from _of_the_last_layer(network, probes, right)
    yield from _of_heads(network, right)
    yield from _of_masks(right)
    yield from _of_the_threshold(network, probes, actual)


def _of_the_input(network: Network, probes: ImageArray) -> Iterator[Suspect]:
    reference = TorchRunner(network, origin="checkpoint")
    yield "channels are swapped: the graph takes BGR, expected RGB", ask(reference, probes[..., ::-1].copy(), 1)
    if probes.shape[1] == probes.shape[2]:
        yield "height and width are swapped", ask(reference, probes.transpose(0, 2, 1, 3).copy(), 1)


def _of_normalisation(network: Network, probes: ImageArray) -> Iterator[Suspect]:
    ours = network.spec.normalize
    for title, normalize in _USUAL.items():
        if normalize != ours:
            other = TorchRunner(network.with_normalize(normalize), origin="checkpoint")
            yield (
                f"mean or std is wrong: the graph normalises with {title} mean and std, expected mean "
                f"{list(ours.mean)}, std {list(ours.std)}",
                ask(other, probes, 1),
            )


def _of_labels(network: Network, right: Outputs) -> Iterator[Suspect]:
    """Where an output's last axis is labels; a mask's numbers lie elsewhere."""
    for name, question in _questions(network).items():
        count = len(question.labels)
        if right[name].shape[1:] != (count,) or question.embedding_size is not None:
            continue
        where = f"head {name}: " if network.spec.heads else ""
        for places in range(1, count):
            shift = places if places <= count // 2 else places - count
            rolled = {**right, name: np.roll(right[name], places, axis=1)}
            yield f"{where}labels are shifted by {shift:+d}: class k answers at place k{shift:+d}", rolled


def _of_the_last_layer(network: Network, probes: ImageArray, right: Outputs) -> Iterator[Suspect]:
    """A graph that ends before softmax, sigmoid or unit length."""
    device = network.mean.device
    with torch.inference_mode():
        logits = network.eval().logits(torch.from_numpy(probes).to(device))
    for name, question in _questions(network).items():
        raw = (logits[name] if isinstance(logits, dict) else logits).cpu().numpy()
        if raw.shape == right[name].shape:
            layer = type(task_for(question, name).last_layer()).__name__
            yield (
                f"output {name} is not normalised: the graph ends before its last layer, {layer}",
                {**right, name: raw},
            )


def _of_heads(network: Network, right: Outputs) -> Iterator[Suspect]:
    for one, other in combinations(network.spec.heads, 2):
        if right[one].shape == right[other].shape:
            swapped = {**right, one: right[other], other: right[one]}
            yield f"heads are swapped: {one} answers what {other} should, and {other} what {one} should", swapped


def _of_masks(right: Outputs) -> Iterator[Suspect]:
    """Outputs with a value for each pixel, [N, H, W]: one of them on its side, or all."""
    dense = [name for name, array in right.items() if array.ndim == 3]
    for names in dict.fromkeys([*((name,) for name in dense), tuple(dense)]):
        turned = {name: right[name].transpose(0, 2, 1) for name in names}
        if turned:
            yield f"{' and '.join(names)} is transposed: the answer lies on its side", {**right, **turned}


def _of_the_threshold(network: Network, probes: ImageArray, actual: Outputs) -> Iterator[Suspect]:
    """A mask cut elsewhere: between the highest probability it leaves out and the lowest that it takes."""
    try:
        asked = in_terms(network, OutputOptions(probability=True))
    except InputError:
        return
    answers = ask(TorchRunner(asked, origin="checkpoint"), probes, 1)
    name = task_for(asked.spec).output
    (probability,) = (array for other, array in answers.items() if other != name)
    taken = actual[name] > 0 if name in actual else np.zeros(0, dtype=bool)
    if taken.shape != probability.shape or taken.all() or not taken.any():
        return
    cut = float((probability[taken].min() + probability[~taken].max()) / 2)
    if not 0 < cut < 1:
        return
    expected = ask(TorchRunner(in_terms(network, OutputOptions(threshold=cut)), origin="checkpoint"), probes, 1)
    wanted = network.spec.threshold(network.spec.labels[1])
    yield f"threshold is shifted: {name} is cut at {cut:.3g}, expected {wanted:.3g}", expected


def _questions(network: Network) -> dict[str, TaskSpec]:
    """What each output answers, by the output's name."""
    spec = network.spec
    return dict(spec.heads) or {task_for(spec).output: spec}
