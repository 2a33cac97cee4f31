"""`client compare` of artifacts: models of every task, with equal and with other weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.browser import open_browser
from tests.errors import error_codes
from tests.fixture_types import Command, NetworkOf
from tests.html_pages import Balanced
from tests.integration.client.conftest import MODELS
from tests.task_specs import COLOURS
from tritonkit.images.preprocess import decode_image
from tritonkit.networks.network import save_network


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory, network_of: NetworkOf) -> dict[str, Path]:
    """A checkpoint with other random weights of each model."""
    folder = tmp_path_factory.mktemp("changed")
    for name, task_spec in MODELS.items():
        network = network_of(task_spec)
        torch.manual_seed(1)
        with torch.no_grad():
            for weights in network.parameters():
                weights.copy_(torch.randn_like(weights) * 0.5)
        save_network(folder / f"{name}.safetensors", network, network.spec.renamed(name))
    return {name: folder / f"{name}.safetensors" for name in MODELS}


@pytest.fixture(scope="module")
def pictures(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs, reduced to 96 pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    for path in photos.iterdir():
        image = decode_image(path.read_bytes())
        image.thumbnail((96, 96))
        image.save(folder / f"{path.stem}.png")
    return folder


@pytest.mark.parametrize("name", ["colours", "tags", "vector", "all", "mask"])
def test_models_agree_with_themselves_and_differ_when_their_weights_do(
    command: Command, models: dict[str, Path], changed: dict[str, Path], pictures: Path, name: str
) -> None:
    same = command("client", "compare", models[name], models[name], pictures, "--json", "--min-agreement", 1)
    assert same.exit_code == 0, same.stderr
    document = json.loads(same.stdout)
    assert (document["images"], document["changed"]) == (4, 0)
    assert document["max_difference"] == (None if name == "mask" else 0)
    assert document["interval"]["high"] == 1
    other = command("client", "compare", models[name], changed[name], pictures, "--json", "--min-agreement", 1)
    assert other.exit_code == 1, other.stderr
    document = json.loads(other.stdout)
    assert document["changed"] == len(document["most_changed"]) > 0
    differences = [each["difference"] for each in document["most_changed"]]
    assert differences[0] > 0
    assert all(flip["before"] != flip["after"] for flip in document["flips"])
    assert bool(document["flips"]) == (name in ("colours", "tags", "all"))


def test_page_shows_changed_masks_and_broken_pictures_are_reported_one_by_one(
    command: Command, models: dict[str, Path], changed: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(pictures, tmp_path / "photos"))
    (folder / "broken.jpg").write_bytes(b"no picture")
    page = tmp_path / "page.html"
    completed = command("client", "compare", models["mask"], changed["mask"], folder, "--html", page)
    assert completed.exit_code == 1
    assert "broken.jpg" in completed.stdout
    assert "of 4 answers agree" in completed.stdout
    Balanced(page.read_text())
    with open_browser() as browser:
        for width in (1280, 390):
            browser.open(page, width)
            assert not browser.problems
            assert browser.requests == [page.as_uri()]
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            shown = browser.evaluate("[...document.images].filter(image => image.naturalWidth > 0).length")
            assert shown == 2 * int(browser.evaluate("document.querySelectorAll('figure').length")) > 0


def test_models_are_compared_by_label_names_when_size_and_labels_differ(
    command: Command, models: dict[str, Path], network_of: NetworkOf, pictures: Path, tmp_path: Path
) -> None:
    larger = network_of(COLOURS.model_copy(update={"labels": ("blue", "red", "green")}), side=48)
    save_network(tmp_path / "larger.safetensors", larger)
    completed = command("client", "compare", models["colours"], tmp_path / "larger.safetensors", pictures, "--json")
    assert completed.exit_code == 0, completed.stderr
    assert json.loads(completed.stdout)["images"] == 4
    more = network_of(COLOURS.model_copy(update={"labels": ("blue", "red", "violet")}))
    save_network(tmp_path / "more.safetensors", more)
    document = json.loads(
        command("client", "compare", models["colours"], tmp_path / "more.safetensors", pictures, "--json").stdout
    )
    assert (document["only_old"], document["only_new"]) == (["green"], ["violet"])


@pytest.mark.parametrize(
    ("old", "new", "options", "code"),
    [
        ("colours", "vector", [], "spec.not_comparable"),
        ("colours", "colours", ["--url", "127.0.0.1:1"], "option.from_server"),
        ("colours", "colours", ["--html", "page.txt"], "output.not_html"),
        ("colours", "no such model!", [], "compare.model"),
        ("colours", "nowhere.safetensors", [], "artifact.not_found"),
    ],
)
def test_compare_refuses_models_that_cannot_be_compared(
    command: Command, models: dict[str, Path], pictures: Path, old: str, new: str, options: list[str], code: str
) -> None:
    completed = command("client", "compare", models[old], models.get(new, new), pictures, *options, "--json")
    assert completed.exit_code == 2
    assert error_codes(completed) == {code}
