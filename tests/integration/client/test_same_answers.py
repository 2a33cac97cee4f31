"""One table, whatever answers: the checkpoint and every artifact made of it that runs here."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.pipeline import export
from builder.request import ExportRequest
from tests.fixture_types import Command, MakeNetwork
from tritonkit.networks.network import save_network

FORMATS = {"onnx": "model.onnx", "torchscript": "model.pt", "openvino": "model.xml"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_network: MakeNetwork) -> Path:
    """A checkpoint, and a repository for each format."""
    target_folder = tmp_path_factory.mktemp("same")
    save_network(target_folder / "pets.safetensors", make_network("test_resnet"))
    for name in FORMATS:
        order = ExportRequest(
            source=target_folder / "pets.safetensors",
            repository=target_folder / name,
            max_batch=4,
            **{name: name == "torchscript" or "fp32"},
            encoded=False,
        )
        export(order)
    return target_folder


@pytest.mark.parametrize("name", FORMATS)
def test_table_is_the_checkpoint_s_when_an_artifact_answers(
    command: Command, folder: Path, photos: Path, name: str
) -> None:
    tables = []
    for source in (folder / "pets.safetensors", folder / name / "pets" / "1" / FORMATS[name]):
        result = command("client", "infer", photos, "--from", source)
        assert result.exit_code == 0, result.stderr
        *table, last = result.stdout.splitlines()
        assert last.endswith(str(source))
        tables.append(table)
    assert len(tables[0]) == 5
    assert tables[0] == tables[1]
