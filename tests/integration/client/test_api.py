"""`from client import Client`: the answers of `client infer` as typed values, awaited or not."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client import Client
from client.commands.infer import infer as infer_command
from client.connection import with_infer_defaults
from client.results import EmbeddingResult, Failed, HeadsResult, LabelResult, LabelSetResult, MaskResult, Result
from scripts.drills.tcp_proxy import open_proxy
from tests.errors import raises
from tests.fixture_types import Command, NetworkOf
from tests.programs import ROOT, run_python
from tests.task_specs import COLOURS, TAGS, VECTOR
from tritonkit.errors import InputError, SpecError
from tritonkit.images.preprocess import ImageError, load_file
from tritonkit.networks.network import save_network
from tritonkit.runtimes import open_artifact
from tritonkit.spec import TaskSpec
from tritonkit.triton.connection import Connection

TASK_SPECS = {
    "multiclass": COLOURS,
    "multilabel": TAGS,
    "embedding": VECTOR,
    "segmentation": TaskSpec(task="segmentation", labels=("ground", "thing"), probability=True),
    "heads": TaskSpec(task="heads", heads={"colour": COLOURS, "tags": TAGS, "first": VECTOR, "second": VECTOR}),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, network_of: NetworkOf) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("asked")
    for name, task_spec in TASK_SPECS.items():
        save_network(folder / f"{name}.safetensors", network_of(task_spec))
    return {name: folder / f"{name}.safetensors" for name in TASK_SPECS}


@pytest.fixture(scope="module")
def cat(photos: Path) -> Path:
    return next(path for path in sorted(photos.iterdir()) if "cat" in path.name)


def test_served_result_is_the_row_of_the_command(command: Command, served: str, photos: Path) -> None:
    ran = command("client", "infer", photos, "--model", "resnet18", "--url", served, "--json")
    rows = {row.pop("path"): row for row in json.loads(ran.stdout)["rows"]}
    with Client("resnet18", served) as client:
        results = client.infer_many(sorted(photos.iterdir()))
    assert {result.name: result.fields["label"] for result in results} == {name: r["label"] for name, r in rows.items()}
    for result in results:
        assert isinstance(result, LabelResult)
        assert result.probability == pytest.approx(rows[result.name]["probability"], abs=1e-5)
        assert [entry.label for entry in result.top] == [entry["label"] for entry in rows[result.name]["top"]]


def test_client_has_the_connection_defaults_of_the_command() -> None:
    options = {parameter.name: parameter.default for parameter in inspect.signature(infer_command).parameters.values()}
    names = {field.removesuffix("_s"): field for field in Connection.model_fields}
    command = Connection(**{names[name]: default for name, default in options.items() if name in names})
    assert with_infer_defaults(command.url) == command
    assert command.patience_s
    connection = Connection(url="grpcs://triton.example:8001", patience_s=0, wait_s=9)
    assert with_infer_defaults(connection) == connection.model_copy(update={"shared_memory": command.shared_memory})


def test_client_asks_again_when_the_network_breaks_for_a_moment(served: str, cat: Path) -> None:
    with (
        open_proxy(int(served.rpartition(":")[2])) as network,
        Client("resnet18", f"127.0.0.1:{network.port}") as client,
    ):
        before = client.infer(cat)
        network.cut()
        mending = threading.Timer(0.5, network.mend)
        mending.start()
        assert [result.fields["label"] for result in client.stream([cat] * 3)] == [before.fields["label"]] * 3
        mending.join()


def test_result_has_the_type_of_its_task(checkpoints: dict[str, Path], cat: Path) -> None:
    found: dict[str, Result] = {}
    for name, path in checkpoints.items():
        with Client.from_artifact(path, top=2) as client:
            found[name] = client.infer(cat)
    label, labels, embedding, mask, heads = found.values()
    assert isinstance(label, LabelResult)
    assert (len(label.top), label.top[0].label) == (2, label.label)
    assert isinstance(labels, LabelSetResult)
    assert set(labels.labels) <= set(TAGS.labels)
    assert isinstance(embedding, EmbeddingResult)
    assert np.linalg.norm(embedding.vector) == pytest.approx(1, abs=1e-5)
    assert isinstance(mask, MaskResult)
    assert mask.mask.shape == Image.open(cat).size[::-1]
    assert isinstance(heads, HeadsResult)
    assert isinstance(heads.heads["colour"], LabelResult)
    second = heads.heads["second"]
    assert isinstance(second, EmbeddingResult)
    with open_artifact(checkpoints["heads"]) as runner:
        outputs = runner.infer(load_file(cat, runner.spec.preprocess)[0][None])
    assert second.vector == pytest.approx(outputs["second"][0], abs=1e-5)


def test_every_kind_of_input_gives_the_answer_of_the_file(checkpoints: dict[str, Path], cat: Path) -> None:
    image = Image.open(cat)
    inputs = [cat, str(cat), cat.read_bytes(), image, np.asarray(image.convert("RGB"))]
    with Client.from_artifact(checkpoints["multiclass"]) as client:
        first, *other_inputs = client.infer_many(inputs)
        assert [result.fields for result in other_inputs] == [first.fields] * 4
        assert [result.name for result in other_inputs] == [str(cat), "#2", "#3", "#4"]


@pytest.mark.parametrize(
    "invalid_input",
    [
        b"",
        b"no picture",
        Path("there/is/none.jpg"),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        Image.new("F", (4, 4)),
    ],
)
def test_unreadable_picture_raises_alone_and_is_a_result_in_a_stream(
    checkpoints: dict[str, Path], cat: Path, invalid_input: object
) -> None:
    with Client.from_artifact(checkpoints["multiclass"]) as client:
        with pytest.raises(ImageError):
            client.infer(invalid_input)  # type: ignore[arg-type]
        readable, unreadable, last = client.stream([cat, invalid_input, cat])  # type: ignore[list-item]
    assert isinstance(unreadable, Failed)
    assert unreadable.error
    assert readable.fields == last.fields


def test_wrong_options_are_refused_when_the_model_is_opened(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(InputError) as caught:
        Client.from_artifact(checkpoints["multiclass"], tta="spin")
    assert "spin" in str(caught.value)
    with pytest.raises(InputError) as caught:
        Client.from_artifact(checkpoints["multiclass"], threshold=0.5)
    assert "--threshold 0.5" in str(caught.value)
    with Client.from_artifact(checkpoints["multiclass"]) as client, raises(InputError, "image.type"):
        client.infer(3)  # type: ignore[arg-type]
    assert issubclass(SpecError, InputError)


def test_awaited_answers_are_those_of_plain_calls(served: str, photos: Path) -> None:
    paths = sorted(photos.iterdir())

    async def ask(client: Client) -> tuple[list[Result], list[Result]]:
        together = await asyncio.gather(*(client.infer_async(path) for path in paths * 5))
        return list(together), [result async for result in client.stream_async(paths)]

    with Client("resnet18", served) as client:
        plain = client.infer_many(paths)
        together, streamed = asyncio.run(ask(client))
    for results in (together[: len(paths)], together[-len(paths) :], streamed):
        assert [result.fields["label"] for result in results] == [result.fields["label"] for result in plain]


def test_stream_reads_a_few_batches_ahead_and_no_more(checkpoints: dict[str, Path], cat: Path) -> None:
    taken = 0

    def endless() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield cat

    with Client.from_artifact(checkpoints["multiclass"]) as client:
        stream = client.stream(endless())  # type: ignore[arg-type]
        assert isinstance(next(stream), LabelResult)
        assert taken <= 1000
        stream.close()  # type: ignore[attr-defined]


def test_stream_ends_when_its_reader_is_cancelled(checkpoints: dict[str, Path], cat: Path) -> None:
    started, go_on = threading.Event(), threading.Event()

    def slow() -> Iterator[Path]:
        started.set()
        assert go_on.wait(30)
        yield cat

    async def cancelled(client: Client) -> None:
        async def read() -> list[Result]:
            return [result async for result in client.stream_async(slow())]

        reading = asyncio.create_task(read())
        await asyncio.to_thread(started.wait, 30)
        reading.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await reading

    with Client.from_artifact(checkpoints["multiclass"]) as client:
        asyncio.run(cancelled(client))
        assert isinstance(client.infer(cat), LabelResult)


@pytest.mark.parametrize("reads_on", [False, True])
def test_stream_ends_quietly_when_its_reader_breaks_off_and_closes_the_client(
    checkpoints: dict[str, Path], cat: Path, reads_on: bool
) -> None:
    exceptions: list[dict[str, Any]] = []
    earlier_threads = set(threading.enumerate())

    async def broken_off() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: exceptions.append(context))
        with Client.from_artifact(checkpoints["multiclass"]) as client:
            async for result in client.stream_async([cat] * 500):
                assert isinstance(result, LabelResult)
                break
        for _ in range(300 if reads_on else 0):
            if not busy_threads():
                return
            await asyncio.sleep(0.05)

    def busy_threads() -> set[str]:
        kinds = {thread.name.partition("_")[0] for thread in set(threading.enumerate()) - earlier_threads}
        return kinds & {"decode", "send", "finish", "ask"}

    asyncio.run(broken_off())
    assert not exceptions
    assert not busy_threads()


def test_examples_of_the_page_run(served: str, cat: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    page = (ROOT / "docs" / "client.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) >= 2
    places = {
        "127.0.0.1:8001": served,
        "imagenet": "resnet18",
        "cat.jpg": str(cat),
        "photos/": f"{cat.parent}/",
        "runs/digits/1/best.safetensors": str(checkpoints["multiclass"]),
        "grpcs://triton.example:8001": served,
        'Path("ca.pem")': "None",
    }
    words = re.compile("|".join(map(re.escape, places)))
    for example in examples:
        text = words.sub(lambda found: places[found[0]], example)
        completed = run_python("-c", text, cwd=tmp_path)
        assert completed.returncode == 0, completed.stderr
        assert completed.stdout.strip(), "the example shows nothing"
