"""Known faults of exported graphs, each with the outputs that a graph with this fault would give."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import torch

from builder.sources.outputs import with_output_options
from tritonkit.comparison import infer_in_batches
from tritonkit.errors import InputError, Problem
from tritonkit.export_options import OutputOptions
from tritonkit.images.preprocess import ImageArray
from tritonkit.networks.network import Network
from tritonkit.runtimes.pytorch import TorchRunner
from tritonkit.spec import Normalize, Outputs
from tritonkit.tasks import task_for

KnownFault = tuple[Problem, Outputs]
"""The problem to report, and the outputs of a graph that has the fault."""

_COMMON_NORMALIZATIONS = {
    "ImageNet's": Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "0.5 and 0.5": Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "0 and 1 (pixels only scaled to 0..1)": Normalize(mean=(0, 0, 0), std=(1, 1, 1)),
    "none (pixels in 0..255)": Normalize(mean=(0, 0, 0), std=(1 / 255, 1 / 255, 1 / 255)),
    "CLIP's": Normalize(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)),
}


def known_faults(network: Network, probes: ImageArray, right: Outputs, actual: Outputs) -> Iterator[KnownFault]:
    """Yield every known fault that a graph of this network can have.

    probes: uint8 [N, H, W, 3]. right, actual: the outputs of the network and of the graph for the probes.
    """
    reference = TorchRunner(network, origin="checkpoint")
    channels = Problem("verdict.channels_swapped", "channels are swapped: the graph expects BGR instead of RGB")
    yield channels, infer_in_batches(reference, probes[..., ::-1].copy(), 1)
    if probes.shape[1] == probes.shape[2]:
        sides = Problem("verdict.sides_swapped", "height and width are swapped")
        yield sides, infer_in_batches(reference, probes.transpose(0, 2, 1, 3).copy(), 1)
    expected = network.spec.normalize
    for title, normalize in _COMMON_NORMALIZATIONS.items():
        if normalize != expected:
            other = TorchRunner(network.with_normalize(normalize), origin="checkpoint")
            problem = Problem(
                "verdict.normalization",
                f"mean or std is wrong: the graph normalizes with {title} mean and std, expected mean "
                f"{list(expected.mean)}, std {list(expected.std)}",
            )
            yield problem, infer_in_batches(other, probes, 1)
    yield from _output_faults(network, probes, right)
    for first, second in combinations(network.spec.heads, 2):
        if right[first].shape == right[second].shape:
            swapped = {**right, first: right[second], second: right[first]}
            problem = Problem(
                "verdict.heads_swapped",
                f"heads are swapped: output {first} has the values of {second}, and {second} those of {first}",
            )
            yield problem, swapped
    # Outputs with a value for each pixel, [N, H, W], transposed: a single one, or all.
    dense = [name for name, array in right.items() if array.ndim == 3]
    for names in dict.fromkeys([*((name,) for name in dense), tuple(dense)]):
        transposed = {name: right[name].transpose(0, 2, 1) for name in names}
        if transposed:
            problem = Problem(
                "verdict.mask_transposed", f"{' and '.join(names)} is transposed: height and width are swapped"
            )
            yield problem, {**right, **transposed}
    yield from _threshold_faults(network, probes, actual)


def _output_faults(network: Network, probes: ImageArray, right: Outputs) -> Iterator[KnownFault]:
    """Shifted labels, where the last axis is the labels, and a missing last layer: softmax, sigmoid, unit length."""
    spec, device = network.spec, network.mean.device
    with torch.inference_mode():
        logits = network.eval().logits(torch.from_numpy(probes).to(device))
    for name, task_spec in (dict(spec.heads) or {task_for(spec).output: spec}).items():
        count = len(task_spec.labels)
        head = f"head {name}: " if spec.heads else ""
        is_labelled = right[name].shape[1:] == (count,) and task_spec.embedding_size is None
        for positions in range(1, count) if is_labelled else ():
            shift = positions if positions <= count // 2 else positions - count
            problem = Problem(
                "verdict.labels_shifted",
                f"{head}labels are shifted by {shift:+d}: the value of class k is at position k{shift:+d}",
            )
            yield problem, {**right, name: np.roll(right[name], positions, axis=1)}
        raw = (logits[name] if isinstance(logits, dict) else logits).cpu().numpy()
        if raw.shape == right[name].shape:
            layer = type(task_for(task_spec, name).last_layer()).__name__
            problem = Problem(
                "verdict.last_layer",
                f"output {name} is not normalized: the graph ends before its last layer, {layer}",
            )
            yield problem, {**right, name: raw}


def _threshold_faults(network: Network, probes: ImageArray, actual: Outputs) -> Iterator[KnownFault]:
    """A mask with another threshold: between the highest probability outside the mask and the lowest inside."""
    try:
        with_probability = with_output_options(network, OutputOptions(probability=True))
    except InputError:
        return
    answers = infer_in_batches(TorchRunner(with_probability, origin="checkpoint"), probes, 1)
    name = task_for(with_probability.spec).output
    (probability,) = (array for other, array in answers.items() if other != name)
    inside = actual[name] > 0 if name in actual else np.zeros(0, dtype=bool)
    if inside.shape != probability.shape or inside.all() or not inside.any():
        return
    threshold = float((probability[inside].min() + probability[~inside].max()) / 2)
    if not 0 < threshold < 1:
        return
    shifted = TorchRunner(with_output_options(network, OutputOptions(threshold=threshold)), origin="checkpoint")
    expected = network.spec.threshold(network.spec.labels[1])
    problem = Problem(
        "verdict.threshold_shifted",
        f"threshold is shifted: {name} is cut at {threshold:.3g}, expected {expected:.3g}",
    )
    yield problem, infer_in_batches(shifted, probes, 1)
