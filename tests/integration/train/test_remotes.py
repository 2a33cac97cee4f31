"""Training, export and measurement with data, weights and checkpoints on a real S3 server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import s3fs

from tests.errors import error_codes
from tests.fixture_types import Command
from tritonkit.checkpoint import read_spec
from tritonkit.remotes.cache import CACHE_VARIABLE
from tritonkit.repository.verdict import Verdict


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def remote_data(bucket: str, folder: Path) -> str:
    """Twelve images each of 0, 1 and 7, in class folders of a bucket."""
    s3fs.S3FileSystem().put(str(folder), f"{bucket}/digits", recursive=True)
    return f"{bucket}/digits"


@pytest.mark.drill
def test_training_export_and_measurement_read_addresses(
    bucket: str,
    remote_data: str,
    checkpoint: Path,
    tmp_path: Path,
    write_config: Callable[..., Path],
    command: Command,
    cache: Path,
) -> None:
    files = s3fs.S3FileSystem()
    weights = f"{bucket}/weights.safetensors"
    files.put_file(str(checkpoint), weights)
    config = write_config(tmp_path / "config.yaml", Path("replaced"), model={"name": "test_resnet", "weights": weights})
    files.put_file(str(config), f"{bucket}/config.yaml")
    fitted = command("train", "fit", f"{bucket}/config.yaml", f"data.path={remote_data}", "--json")
    assert fitted.exit_code == 0, fitted.output
    best = Path(json.loads(fitted.stdout)["checkpoint"])
    lineage = read_spec(best).lineage
    assert (lineage.config["data"]["path"], lineage.config["model"]["weights"]) == (remote_data, weights)
    assert lineage.parent == weights
    for name in ("best.safetensors", "golden.npz", "splits"):
        files.put(str(best.with_name(name)), f"{bucket}/run/{name}", recursive=True)
    address = f"{bucket}/run/best.safetensors"
    repository = tmp_path / "repository"
    exported = command("builder", "export", address, "--data", remote_data, "--repository", repository)
    assert exported.exit_code == 0, exported.output
    verdict = Verdict.read(repository / "tiny" / "1")
    assert verdict is not None
    assert "validation images" in verdict.images
    assert any(remote_data in measured for measured in verdict.quality)
    measured = command("train", "test", address, "--data", remote_data, "--json")
    assert measured.exit_code == 0, measured.output
    document = json.loads(measured.stdout)
    assert (document["checkpoint"], document["data"], document["images"]) == (address, remote_data, 36)
    shown = command("builder", "show", f"{bucket}/run/best.safetensors", "--json")
    assert json.loads(shown.stdout)["spec"]["name"] == "tiny"
    answered = command("client", "infer", remote_data, "--from", address, "--json")
    assert len(json.loads(answered.stdout)["rows"]) == 36
    # Without --data, the splits are those of the run; images that the cache has lost are fetched again.
    shutil.rmtree(cache)
    words = ("--no-serve", "--epochs", 1, "--output", tmp_path / "compressed", "--json")
    compressed = command("train", "compress", address, *words)
    assert compressed.exit_code == 0, compressed.output
    assert read_spec(Path(json.loads(compressed.stdout)["checkpoint"])).lineage.parent == address
    shutil.rmtree(cache)
    assert command("train", "test", best).exit_code == 0
    for path in best.parent.glob("*.safetensors"):
        path.unlink()
    shutil.rmtree(cache)
    resumed = command("train", "resume", best.parent)
    assert resumed.exit_code == 0, resumed.output


@pytest.mark.parametrize("verb", ["resume", "report", "sync"])
def test_run_at_an_address_is_refused(command: Command, verb: str) -> None:
    refused = command("train", verb, "s3://user:secret@bucket/runs/digits/1", "--json")
    assert (refused.exit_code, error_codes(refused)) == (2, {"run.address"})
    assert "secret" not in refused.output


def test_table_at_an_address_brings_the_images_that_it_names(
    bucket: str, remote_data: str, tmp_path: Path, command: Command
) -> None:
    files = s3fs.S3FileSystem()
    names = [name.partition("/digits/")[2] for name in files.find(remote_data)]
    rows = [f"digits/{name},{name.partition('/')[0]}" for name in names if not name.startswith("7/")]
    files.pipe_file(f"{bucket}/table.csv", "\n".join(["image_path,label", *rows]).encode())
    prepared = command("train", "prepare", f"{bucket}/table.csv", tmp_path / "splits", "--json")
    assert prepared.exit_code == 0, prepared.output
    assert sum(json.loads(prepared.stdout)["pictures"].values()) == 24
    files.pipe_file(f"{bucket}/table.csv", "\n".join(["image_path,label", *rows, "../x.png,0"]).encode())
    refused = command("train", "prepare", f"{bucket}/table.csv", tmp_path / "others", "--json")
    assert error_codes(refused) == {"data.invalid", "data.missing_image"}


@pytest.mark.parametrize(
    ("override", "exit_code", "code"),
    [
        ("data.path=s3://no-such-bucket/digits", 2, "remote.absent"),
        ("model.weights=s3://no-such-bucket/x.safetensors", 2, "remote.absent"),
        ("data.path=nosuch://bucket/digits", 2, "store.address"),
        ("data.path=http://127.0.0.1:9/data.csv", 3, "remote.unreachable"),
        ("data.path=https://user:secret@example.invalid/data.csv", 2, "option.password"),
        ("data.path=https://t0ken@example.invalid/data.csv", 2, "config.credentials"),
        (
            "model.weights=https://example.invalid/x.pth?X-Amz-Date=1&X-Amz-Signature=5f",
            2,
            "config.credentials",
        ),
    ],
)
def test_bad_address_is_one_error_before_the_training(
    bucket: str,
    folder: Path,
    tmp_path: Path,
    write_config: Callable[..., Path],
    command: Command,
    override: str,
    exit_code: int,
    code: str,
) -> None:
    config = write_config(tmp_path / "config.yaml", folder)
    refused = command("train", "fit", config, override, "--json")
    assert refused.exit_code == exit_code, refused.output
    assert code in error_codes(refused)
    assert "secret" not in refused.output
    assert not (tmp_path / "runs").exists()
