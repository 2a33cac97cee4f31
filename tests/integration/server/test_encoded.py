"""A real Triton takes JPEG, PNG and WebP as they are, and sees the very pixels that the kit's clients send."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
import struct
import subprocess
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.http
from PIL import Image
from tritonclient.utils import InferenceServerException

from builder.pipeline import export
from builder.request import ExportRequest
from server.process import Server
from tests.fixture_types import Command, NetworkOf
from tests.pictures import encoded, turned
from tests.serving import options_for, serving
from tritonkit.images.preprocess import ImageArray, Preprocess, load_file, load_image
from tritonkit.networks.network import Network, save_network
from tritonkit.spec import ModelSpec, TaskSpec, image_input
from tritonkit.triton.client import TritonClient
from tritonkit.triton.runner import TritonRunner

HEADS = TaskSpec(
    task="heads",
    heads={
        "shape": TaskSpec(task="multiclass", labels=("round", "square")),
        "tags": TaskSpec(task="multilabel", labels=("old", "wet")),
        "vector": TaskSpec(task="embedding", embedding_size=8),
    },
)
MASK = TaskSpec(task="segmentation", labels=("background", "stamp"), probability=True)
HOW = Preprocess(height=48, width=40, fit="pad", interpolation="bicubic", fill=(9, 8, 7))
MODELS = ("pets", "asked_heads", "asked_segmentation")
LARGE = 320
"""At this side an image takes longer than 2 ms, so the images of a request run on the cores by themselves."""
ROOM = 10_000_000
"""Pixels that `tight_decode` decodes at once."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, spec: ModelSpec, network_of: NetworkOf) -> Path:
    """Models of several tasks, one whose decoder finds no Pillow, and one whose decoder has room for few pixels."""
    folder = tmp_path_factory.mktemp("encoded")
    padded = spec.model_copy(update={"preprocess": HOW, "input": image_input(HOW)})
    for network in (Network(padded).eval(), network_of(HEADS, LARGE), network_of(MASK)):
        path = folder / f"{network.spec.name}.safetensors"
        save_network(path, network)
        export(ExportRequest(source=path, repository=folder / "repository", max_batch=4))
    for part, name in itertools.product(("", "_decode", "_encoded"), ("bare", "tight")):
        config = (
            shutil.copytree(folder / f"repository/pets{part}", folder / f"repository/{name}{part}") / "config.pbtxt"
        )
        config.write_text(config.read_text().replace('"pets', f'"{name}'))
    shutil.rmtree(folder / "repository/tight_encoded/configs")  # served as an ensemble, the others by one process
    with (folder / "repository/tight_decode/config.pbtxt").open("a") as file:
        for key, value in (("decoders", 6), ("decoded_pixels", ROOM)):
            file.write(f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n')
    carried = folder / "repository/bare_decode/1/preprocess.py"
    carried.write_text(carried.read_text().replace("from PIL import", "from no_pillow_here import"))
    return folder / "repository"


@pytest.fixture(scope="module")
def server(published: Path) -> Iterator[Server]:
    """A Triton that serves them all."""
    with serving(options_for(published)) as running:
        yield running


@pytest.fixture(scope="module")
def cat(photos: Path) -> Path:
    """A photograph."""
    return photos / "cat.jpg"


def curl(server: Server, model: str, picture: Path) -> tuple[int, dict[str, Any], bytes]:
    """Send a file as it is: status, JSON part and binary part of the answer."""
    url = f"{server.options.http_url}/v2/models/{model}/infer"
    header = [
        "--header",
        "Inference-Header-Content-Length: 0",
        "--write-out",
        "\n%{http_code} %header{inference-header-content-length}",
    ]
    command = ["curl", "--silent", "--data-binary", f"@{picture}", *header, url]
    answer, _, stderr = subprocess.run(command, capture_output=True, check=True).stdout.rpartition(b"\n")
    status, *length = stderr.split()
    cut = int(length[0]) if length else len(answer)
    return int(status), json.loads(answer[:cut]), answer[cut:]


def ask(server: Server, model: str, *pictures: bytes) -> dict[str, Any]:
    """Send pictures in one request; outputs by name. Raises InferenceServerException."""
    client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.options.http_port}")
    tensor = tritonclient.http.InferInput("encoded", [len(pictures), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(pictures, dtype=object).reshape(-1, 1))
    answer = client.infer(model, [tensor])
    return {output["name"]: answer.as_numpy(output["name"]) for output in answer.get_response()["outputs"]}


def runner(server: Server, model: str) -> TritonRunner:
    return TritonRunner(TritonClient(server.options.grpc_url), model)


def decoded(server: Server, data: bytes) -> ImageArray:
    pixels: ImageArray = ask(server, "pets_decode", data)["image"][0]
    return pixels


def test_curl_gets_the_probabilities_of_the_client(server: Server, cat: Path, command: Command, tmp_path: Path) -> None:
    status, stderr, values = curl(server, "pets_encoded", cat)
    assert (status, stderr["outputs"][0]["shape"]) == (200, [1, 3])
    url, output = server.options.grpc_url, tmp_path / "answers.jsonl"
    completed = command("client", "infer", cat, "--model", "pets", "--url", url, "--top", 3, "--output", output)
    assert completed.exit_code == 0, completed.stderr
    probabilities = {entry["label"]: entry["probability"] for entry in json.loads(output.read_text())["top"]}
    expected = [probabilities[label] for label in ("cat", "dog", "bird")]
    assert list(np.frombuffer(values, "<f4")) == pytest.approx(expected, abs=1e-5)


def encodings(cat: Path) -> dict[str, bytes]:
    image = Image.open(cat)
    options: dict[str, dict[str, Any]] = {
        "PNG": {},
        "WEBP": {"quality": 90},
        "JPEG": {"exif": turned()},
        "GIF": {},
        "TIFF": {},
    }
    return {name: encoded(image, name, **words) for name, words in options.items()}


def test_model_sees_the_very_pixels_that_the_client_sends(server: Server, photos: Path) -> None:
    for photo in sorted(photos.glob("*.jpg")):
        assert np.array_equal(decoded(server, photo.read_bytes()), load_file(photo, HOW)[0]), photo


def test_model_sees_the_same_pixels_whatever_the_format(server: Server, cat: Path) -> None:
    for name, data in encodings(cat).items():
        assert np.array_equal(decoded(server, data), load_image(data, HOW)[0]), name


@pytest.mark.parametrize("model", MODELS)
def test_ensemble_answers_as_the_model_does_whatever_its_task(server: Server, photos: Path, model: str) -> None:
    files = sorted(photos.glob("*.jpg"))
    local = runner(server, model)
    expected = local.infer(np.stack([load_file(path, local.spec.preprocess)[0] for path in files]))
    answers = ask(server, f"{model}_encoded", *(path.read_bytes() for path in files))
    assert set(answers) == set(expected)
    for name, values in expected.items():
        assert answers[name] == pytest.approx(values, abs=1e-5)


def test_label_is_told_when_the_ensemble_is_asked_for_the_best(server: Server, cat: Path) -> None:
    client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.options.http_port}")
    tensor = tritonclient.http.InferInput("encoded", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[cat.read_bytes()]], dtype=object))
    best = tritonclient.http.InferRequestedOutput("probabilities", class_count=1)
    (answer,) = client.infer("pets_encoded", [tensor], outputs=[best]).as_numpy("probabilities").ravel()
    assert answer.decode().split(":")[2] in ("cat", "dog", "bird")


def bomb() -> bytes:
    """A PNG that says it has 12,000 x 12,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(bytes(1000)), b"IEND"]
    parts = [struct.pack(">I", len(entry) - 4) + entry + struct.pack(">I", zlib.crc32(entry)) for entry in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no picture", "not an image in a supported format; supported: JPEG, PNG, WEBP"),
        (b"", "the file is empty"),
        (bomb(), "12,000 x 12,000 pixels; at most 100,000,000"),
    ],
)
def test_broken_picture_is_refused_with_the_reason(server: Server, tmp_path: Path, data: bytes, message: str) -> None:
    if data:
        (tmp_path / "broken.jpg").write_bytes(data)
        status, stderr, _ = curl(server, "pets_encoded", tmp_path / "broken.jpg")
        assert status == 400
        assert message in stderr["error"]
    with pytest.raises(InferenceServerException, match=message):
        ask(server, "pets_encoded", data)


@pytest.mark.parametrize("compressed", [False, True])
def test_http_of_the_wheel_bounds_no_body_and_inflates_gzip(server: Server, compressed: bool) -> None:
    """As docs/encoded.md says of release 24.10: what is refused here, the decoder has refused.

    Without a content type, urllib calls the body a web form, of which 24.10 dies above 8 MiB.
    """
    body = bytes(65 * 2**20)
    url = f"{server.options.http_url}/v2/models/pets_encoded/infer"
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    headers |= {"Content-Encoding": "gzip"} if compressed else {}
    request = urllib.request.Request(url, gzip.compress(body, 1) if compressed else body, headers)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)
    assert "not an image" in json.load(refused.value)["error"]


@pytest.mark.parametrize("model", ["pets_encoded", "asked_heads_encoded"])
def test_picture_is_named_when_one_of_several_is_broken(server: Server, cat: Path, model: str) -> None:
    intact = cat.read_bytes()
    with pytest.raises(InferenceServerException, match=r"image 1 of 3: the JPEG data is broken or cut short"):
        ask(server, model, intact, intact[: len(intact) // 2], intact)


@pytest.mark.parametrize("model", ["pets_encoded", "asked_heads_encoded"])
def test_broken_picture_fails_only_its_own_request_when_others_are_in_flight(
    server: Server, cat: Path, model: str
) -> None:
    intact = cat.read_bytes()
    expected = ask(server, model, intact)

    def one(number: int) -> bool:
        if number % 3:
            answers = ask(server, model, intact)
            return all(np.allclose(answers[name], values, atol=1e-5) for name, values in expected.items())
        with pytest.raises(InferenceServerException, match="broken or cut short"):
            ask(server, model, intact[:9000])
        return True

    with ThreadPoolExecutor(8) as clients:
        assert all(clients.map(one, range(48)))


def decoder_process(server: Server, model: str) -> psutil.Process:
    """The process in which a decoder runs."""
    inside = f"{server.options.repository}/{model}/"
    return next(entry for entry in psutil.process_iter(["cmdline"]) if inside in " ".join(entry.info["cmdline"] or ()))


def test_large_pictures_are_decoded_one_after_the_other_when_they_come_at_once(server: Server, cat: Path) -> None:
    large = encoded(Image.new("RGBA", (3000, 3000), (200, 100, 50, 99)), compress_level=1)
    ask(server, "tight_decode", cat.read_bytes())
    decoder = decoder_process(server, "tight_decode")
    before, max_concurrency = decoder.memory_info().rss, []
    with ThreadPoolExecutor(6) as clients:
        futures = [clients.submit(ask, server, "tight_decode", large) for _ in range(6)]
        while not all(entry.done() for entry in futures):
            max_concurrency.append(decoder.memory_info().rss)
            time.sleep(0.01)
    expected = load_image(large, HOW)[0]
    assert all(np.array_equal(entry.result()["image"][0], expected) for entry in futures)
    assert max(max_concurrency) - before < 3 * 8 * 3000**2, "each takes 8 bytes a pixel; the C library keeps some of it"


def test_picture_is_refused_when_it_has_more_pixels_than_there_is_room_for(server: Server) -> None:
    picture = encoded(Image.new("1", (5000, 4000)))
    with pytest.raises(InferenceServerException, match=r"5,000 x 4,000 pixels; .* 10,000,000 "):
        ask(server, "tight_encoded", picture)


def test_reload_warns_when_the_ensemble_of_a_model_does_not_load_along_with_it(
    server: Server, command: Command
) -> None:
    config = server.options.repository / "tight_encoded" / "config.pbtxt"
    before = config.read_text()
    config.write_text(before.replace('value: "probabilities"', 'value: "scores"'))
    try:
        stderr = command("server", "reload", "tight", "--grpc-port", server.options.grpc_port)
        assert (stderr.exit_code, stderr.stdout) == (0, "tight: version 1, as before\n"), stderr.output
        assert "warning: tight_encoded could not be loaded along with tight: ensemble output " in stderr.stderr
        assert "; it keeps serving its previous version\n" in stderr.stderr
    finally:
        config.write_text(before)
        well = command("server", "reload", "tight", "--grpc-port", server.options.grpc_port)
    assert (well.exit_code, "warning" in well.stderr) == (0, False), well.output


def test_models_are_served_when_triton_has_no_pillow(server: Server, cat: Path) -> None:
    local = runner(server, "bare")
    assert local.infer(load_file(cat, HOW)[0][np.newaxis])["probabilities"].shape == (1, 3)
    with pytest.raises(InferenceServerException, match="bare_decode: Triton's Python has no Pillow"):
        ask(server, "bare_encoded", cat.read_bytes())
