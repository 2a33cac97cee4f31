"""Reading Triton's traces of live requests."""

from __future__ import annotations

import numpy as np
import pytest

from client.shadow.traces import parse_trace
from tests.tiny_graphs import colour_spec
from tritonkit.images.preprocess import ImageArray
from tritonkit.spec import TensorSpec

SPEC = colour_spec("tiny")
ENTRY = '{{"id":7,"activity":"{}","tensor":{{"name":"{}","data":"{}","shape":"{}","dtype":"{}"}}}}'
HEADER = '[{"id":7,"model_name":"tiny","model_version":12,"request_id":""}'
INPUT, OUTPUT = "TENSOR_QUEUE_INPUT", "TENSOR_BACKEND_OUTPUT"


def trace_of(images: ImageArray, data: bytes, header: str = HEADER) -> bytes:
    """A trace as Triton 24.10 writes it; `data` are the bytes of the images."""
    shape = ",".join(map(str, images.shape))
    values = ",".join(["0.25,0.5,0.25"] * len(images))
    before, after = ENTRY.format(INPUT, "image", "|", shape, "UINT8").encode().split(b"|")
    output = ENTRY.format(OUTPUT, "probabilities", values, f"{len(images)},3", "FP32").encode()
    return b",".join([header.encode(), before + data + after, output]) + b"]"


@pytest.fixture
def images() -> ImageArray:
    """Two images with every byte, such as quotes and brackets, in them."""
    return np.resize(np.arange(256, dtype=np.uint8), (2, *SPEC.input.shape))


def test_images_are_those_of_the_request_when_their_bytes_are_written_raw(images: ImageArray) -> None:
    raw = b",".join(bytes([value]) for value in images.ravel().tolist())
    request = parse_trace(trace_of(images, raw), SPEC)
    assert request.version == "12"
    assert np.array_equal(request.images, images)
    assert request.outputs is not None
    assert request.outputs["probabilities"].tolist() == [[0.25, 0.5, 0.25]] * 2


def test_images_are_those_of_the_request_when_their_values_are_written_as_numbers(images: ImageArray) -> None:
    request = parse_trace(trace_of(images, ",".join(map(str, images.ravel().tolist())).encode()), SPEC)
    assert np.array_equal(request.images, images)


def test_request_has_no_outputs_when_triton_did_not_trace_them(images: ImageArray) -> None:
    raw = b",".join(bytes([value]) for value in images.ravel().tolist())
    header = HEADER.replace('"request_id":""', '"request_id":"mine"')
    inputs, _, _ = trace_of(images, raw, header).rpartition(b',{"id":7')
    request = parse_trace(inputs + b',{"id":7,"timestamps":[{"name":"REQUEST_END","ns":5}]}]', SPEC)
    assert request.outputs is None
    assert request.request_id == "mine"
    assert np.array_equal(request.images, images)


def test_request_has_no_outputs_when_some_are_text(images: ImageArray) -> None:
    raw = b",".join(bytes([value]) for value in images.ravel().tolist())
    label = TensorSpec(name="label", dtype="BYTES", shape=(1,))
    text = ENTRY.format(OUTPUT, "label", 'a "cat", a dog', "2,1", "BYTES").encode()
    data = trace_of(images, raw).removesuffix(b"]") + b"," + text + b"]"
    request = parse_trace(data, SPEC.model_copy(update={"outputs": (*SPEC.outputs, label)}))
    assert request.outputs is None
    assert np.array_equal(request.images, images)


def test_request_has_no_outputs_when_the_caller_asked_for_some_only(images: ImageArray) -> None:
    raw = b",".join(bytes([value]) for value in images.ravel().tolist())
    two = SPEC.model_copy(update={"outputs": (*SPEC.outputs, SPEC.outputs[0].model_copy(update={"name": "other"}))})
    request = parse_trace(trace_of(images, raw), two)
    assert request.outputs is None
    assert np.array_equal(request.images, images)


@pytest.mark.parametrize("part", [0.02, 0.5, 0.95])
def test_trace_is_refused_when_its_end_is_missing(images: ImageArray, part: float) -> None:
    raw = b",".join(bytes([value]) for value in images.ravel().tolist())
    whole = trace_of(images, raw)
    with pytest.raises(ValueError, match="no end"):
        parse_trace(whole[: int(len(whole) * part)], SPEC)


def test_trace_is_refused_when_it_names_no_version(images: ImageArray) -> None:
    raw = b",".join(bytes([value]) for value in images.ravel().tolist())
    with pytest.raises(ValueError, match="model_version"):
        parse_trace(trace_of(images, raw, header='[{"id":7}'), SPEC)
