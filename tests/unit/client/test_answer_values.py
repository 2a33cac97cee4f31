"""A model whose answer to one image is NaN: only that image has an error, in the command and in the Python client."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from onnx import helper
from PIL import Image

from client import Client
from client.results import Failed, LabelResult
from tests.errors import raises
from tests.fixture_types import Command
from tests.tiny_graphs import SIDE, colour_spec, save_colour_graph
from tritonkit.errors import AnswerError, InputError

CAUSE = "3 NaN of 3 values"


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph that gives each colour's share of the light: of a black picture, 0 / 0."""
    nodes = [
        helper.make_node("ReduceSum", ["means", "last"], ["light"], keepdims=1),
        helper.make_node("Div", ["means", "light"], ["probabilities"]),
    ]
    path = tmp_path_factory.mktemp("shares") / "model.onnx"
    return save_colour_graph(path, colour_spec("shares"), *nodes, last=[1])


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """A black picture between two coloured ones."""
    paths = []
    for name, colour in (("1.png", (200, 10, 10)), ("2.png", (0, 0, 0)), ("3.png", (10, 10, 200))):
        Image.new("RGB", (SIDE, SIDE), colour).save(tmp_path / name)
        paths.append(tmp_path / name)
    return paths


@pytest.mark.parametrize("views", [[], ["--tta", "flips"]])
def test_row_has_an_error_when_the_answer_is_nan(
    command: Command, shares: Path, pictures: list[Path], tmp_path: Path, views: list[str]
) -> None:
    outputs = [tmp_path / f"answers.{kind}" for kind in ("jsonl", "csv", "parquet")]
    options = [option for path in outputs for option in ("--output", path)]
    ran = command("client", "infer", *pictures, "--from", shares, *options, *views)
    assert ran.exit_code == 1
    rows = [json.loads(line, parse_constant=pytest.fail) for line in outputs[0].read_text().splitlines()]
    assert [row.get("label") for row in rows] == ["red", None, "blue"]
    assert CAUSE in rows[1]["error"]
    assert "nan" not in outputs[1].read_text().replace("NaN of 3", "").lower()


def test_client_raises_or_gives_a_failed_result_when_the_answer_is_nan(shares: Path, pictures: list[Path]) -> None:
    with Client.from_artifact(shares) as client:
        with raises(AnswerError, "answer.impossible", CAUSE):
            client.infer(pictures[1])
        with raises(AnswerError, "answer.impossible"):
            asyncio.run(client.infer_async(pictures[1]))
        first, broken, last = client.infer_many(pictures)
    assert isinstance(first, LabelResult)
    assert isinstance(last, LabelResult)
    assert isinstance(broken, Failed)
    assert CAUSE in broken.error


def test_closed_client_raises_its_own_error(shares: Path, pictures: list[Path]) -> None:
    client = Client.from_artifact(shares)
    client.close()
    client.close()
    for ask in (
        client.infer,
        lambda path: client.infer_many([path]),
        lambda path: asyncio.run(client.infer_async(path)),
    ):
        with raises(InputError, "client.closed"):
            ask(pictures[0])


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/x.jpg", "s3://bucket/x.jpg", "data:image/png;base64,AA"])
def test_client_refuses_an_address(shares: Path, address: str) -> None:
    with Client.from_artifact(shares) as client, raises(InputError, "image.address"):
        client.infer(address)
