"""The configuration of trackers, the images of confusion matrices, and the time left."""

from __future__ import annotations

import csv
import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import sqlalchemy.exc
import torch
import yaml
from mlflow.utils.validation import _validate_metric
from PIL import Image

from tests.errors import raises
from train.config.loading import Config, load_config
from train.engine.tracking.confusion import sum_over_processes
from train.engine.tracking.mlflow_run import flat, mlflow_name, translate_mlflow_errors
from train.engine.tracking.sender import Sender
from train.reports.confusion import write_confusion_image, write_confusion_table
from train.tracking import check_trackers, mlflow_environment, server_name
from tritonkit.errors import ConfigError, ExternalError
from tritonkit.evaluation.tasks.confusion import ConfusionMatrix
from tritonkit.system.console import duration


def write(path: Path, trackers: Any) -> Path:
    config = {"name": "roses", "data": {"path": "roses"}, "model": {"name": "resnet18"}, "image": {"size": 32}}
    path.write_text(yaml.safe_dump({**config, "trackers": trackers}))
    return path


def config_with(folder: Path, trackers: Any) -> Config:
    return load_config(write(folder / "config.yaml", trackers))


@pytest.mark.parametrize(
    ("trackers", "names"),
    [
        ("mlflow", ["mlflow"]),
        (["csv", "tensorboard"], ["csv", "tensorboard"]),
        ([{"name": "mlflow", "experiment": "roses", "tags": {"team": "garden"}}], ["mlflow"]),
        ([], []),
    ],
)
def test_trackers_are_read_when_named(tmp_path: Path, trackers: Any, names: list[str]) -> None:
    config = config_with(tmp_path, trackers)
    assert [tracker.name for tracker in config.trackers] == names
    assert (config.mlflow is not None) == ("mlflow" in names)


@pytest.mark.parametrize(
    ("trackers", "sentence"),
    [
        (["wandb"], "unknown tracker 'wandb'; expected one of csv, tensorboard, mlflow"),
        ([{"name": "mlflow", "experiments": "x"}], "its arguments: experiment, run_name, tags"),
        ([{"name": "mlflow", "tracking_uri": "http://h"}], "come from the environment or from .env"),
        ([{"name": "mlflow", "aws_secret_access_key": "s3cret"}], "come from the environment or from .env"),
        (["mlflow", "mlflow"], "each tracker can be used once"),
        ([{"name": "mlflow", "tags": {"team": 3}}], "trackers.0.mlflow.tags.team"),
    ],
)
def test_trackers_are_refused_when_wrong(tmp_path: Path, trackers: Any, sentence: str) -> None:
    path = write(tmp_path / "config.yaml", trackers)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert sentence in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "https://t0ken@host/data.csv",
        "https://host/data.csv?token=t0ken",
        "https://host/data.csv?Private-Token=t0ken",
        "https://host/data.csv?X-Amz-Date=1&X-Amz-Signature=t0ken",
        "https://host/data.csv?sv=2024&sig=t0ken",
        "dvc://https://t0ken@host/data.csv",
    ],
)
def test_address_with_a_secret_is_refused_when_configured(tmp_path: Path, address: str) -> None:
    places: list[tuple[str, Any]] = [
        ("data", {"path": address}),
        ("model", {"name": "resnet18", "weights": address}),
        ("trackers", [{"name": "mlflow", "tags": {"source": f"from {address}"}}]),
        ("export", {"format": "onnx", "images": address}),
    ]
    for key, value in places:
        config = yaml.safe_load(write(tmp_path / "config.yaml", []).read_text()) | {key: value}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        with raises(ConfigError, "config.credentials", key) as caught:
            load_config(tmp_path / "config.yaml")
        assert "t0ken" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/a@2x",
        "abfs://container@account.dfs.core.windows.net/data",
        "https://h/a.zip?id=3#sha256=" + "0" * 64,
    ],
)
def test_address_is_accepted_when_it_has_no_secret(tmp_path: Path, address: str) -> None:
    config = yaml.safe_load(write(tmp_path / "config.yaml", []).read_text()) | {"data": {"path": address}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert load_config(tmp_path / "config.yaml").data.path == address


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "tracking.local_file"),
        (FileNotFoundError(errno.ENOENT, "No such file", "curves.png"), "tracking.local_file"),
        (ConnectionRefusedError(), "tracking.unreachable"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "tracking.unreachable"),
        (requests.ConnectionError(), "tracking.unreachable"),
        (sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("connection refused")), "tracking.unreachable"),
    ],
)
def test_server_is_blamed_when_the_network_failed_and_not_the_disk(error: Exception, code: str) -> None:
    with raises(ExternalError, code), translate_mlflow_errors():
        raise error


@pytest.mark.parametrize("answer", ["", '{"error": nu'])
def test_training_goes_on_when_the_sender_dies_in_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nprintf '%s' '{answer}'\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    sender = Sender({})
    sender.start(tmp_path)
    sender.send()
    sender.finish()
    assert capsys.readouterr().err.count("the process that sends to MLflow has ended") == 1


def _answer(url: str | None = None, **error: Any) -> dict[str, Any]:
    return {"error": {**error, "is_input": False} if error else None, "url": url}


AWAY = _answer(message="cannot be reached", code="tracking.unreachable")
STILL_AWAY = _answer(message="cannot be reached, once more", code="tracking.unreachable")
REFUSED = _answer(message="refuses the credentials", code="tracking.credentials")
MISSING = "MLflow does not have all of this run"


@pytest.mark.parametrize(
    ("answers", "warnings"),
    [
        ((AWAY, STILL_AWAY, _answer("http://h/run")), ["cannot be reached. The training goes on"]),
        ((AWAY, AWAY, STILL_AWAY), ["cannot be reached. The training goes on", MISSING]),
        ((AWAY, REFUSED, REFUSED), ["cannot be reached. The training goes on", "refuses the credentials", MISSING]),
        ((AWAY, STILL_AWAY, REFUSED), ["cannot be reached. The training goes on", "refuses the credentials"]),
    ],
)
def test_each_error_of_mlflow_is_shown_once_when_it_lasts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answers: tuple[dict[str, Any], ...],
    warnings: list[str],
) -> None:
    """The answers to `check`, `start` and `finish`."""
    lines = "".join(f"read -r request; echo '{json.dumps(answer)}'\n" for answer in answers)
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{lines}")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    sender = Sender({})
    sender.check("roses")
    sender.start(tmp_path)
    assert sender.finish() == (answers[-1]["error"] is None)
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == len(warnings)
    assert all(f"warning: {start}" in line for start, line in zip(warnings, shown, strict=True))
    assert all(line.endswith(f"train sync {tmp_path}") for line in shown[1:])


def test_answer_names_the_type_when_an_error_is_unexpected() -> None:
    command = [sys.executable, "-P", "-m", "train.engine.tracking.sender"]
    process = subprocess.run(command, input="{}\n", capture_output=True, text=True, check=True)
    assert json.loads(process.stdout)["error"]["message"] == "KeyError: 'run'"


def test_names_are_distinct_and_accepted_by_mlflow_when_labels_are_not() -> None:
    labels = [".", "..", "/", "//", "+", "*", "_", "a/", "/a", "a//b", "a/../b", "..a", "@", "_at_", "é", "x" * 300]
    names = [f"val_f1/{label}" for label in [*labels, "x" * 299, "cat", "a/b c"]]
    tags = [".", "..", "/", "..a"]
    accepted = [mlflow_name(name) for name in [*tags, *names]]
    for name in accepted:
        for prefix in ("", "best_", "resumed."):
            _validate_metric(prefix + name, 0.5, 0, 0)
            assert len(prefix + name) <= 250
    assert len(set(accepted)) == len(accepted)
    assert accepted[-2:] == ["val_f1/cat", "val_f1/a/b c"]
    assert mlflow_name("val_recall@1") == "val_recall_at_1"


def _sum_in_process(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    counted = ConfusionMatrix(("a", "b"), ("a", "b"), np.eye(2, dtype=np.int64))
    total = sum_over_processes({"": counted} if rank else {}, 2)  # the first process could not count
    np.save(folder / f"{rank}.npy", total[""].counts)


def test_processes_end_the_epoch_when_one_could_not_count(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_sum_in_process, (tmp_path,), nprocs=2)
    for rank in range(2):
        np.testing.assert_array_equal(np.load(tmp_path / f"{rank}.npy"), np.eye(2))


@pytest.mark.parametrize(
    ("uri", "code"),
    [("", "tracking.no_server"), ("htp://u:pw@h:1", "tracking.bad_server"), ("http://", "tracking.bad_server")],
)
def test_missing_server_is_an_error_when_checked_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, code: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError) as caught:
        check_trackers(config_with(tmp_path, ["mlflow"]))
    assert [problem.code for problem in caught.value.problems] == [code]
    assert "MLFLOW_TRACKING_URI" in str(caught.value)
    assert "pw" not in str(caught.value)


def test_settings_come_from_env_file_when_environment_lacks_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    (tmp_path / ".env").write_text(
        "MLFLOW_TRACKING_URI='http://u:pw@h:5000' # ours\nexport AWS_ACCESS_KEY_ID=other\nGRPC_PORT=8001\n"
    )
    environment = mlflow_environment()
    assert environment["MLFLOW_TRACKING_URI"] == "http://u:pw@h:5000"
    assert environment["AWS_ACCESS_KEY_ID"] == "mine"
    assert "GRPC_PORT" not in environment
    assert server_name(environment["MLFLOW_TRACKING_URI"]) == "http://h:5000"
    assert server_name("http://u:p@w@h:5000") == "http://h:5000"
    check_trackers(config_with(tmp_path, ["csv", "mlflow"]))


def test_folder_is_an_error_when_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises(ConfigError, "tracking.not_possible"):
        check_trackers(config_with(tmp_path, {"name": "tensorboard", "folder": str(tmp_path / "file")}))


def test_parameters_have_dotted_names_when_nested() -> None:
    values = {"model": {"name": "resnet18", "weights": None, "arguments": {}}, "fill": [0, 0], "lr": 0.1}
    assert flat(values) == {
        "model.name": "resnet18", "model.weights": "", "model.arguments": "{}", "fill": "[0, 0]", "lr": "0.1",
    }  # fmt: skip


@pytest.mark.parametrize("size", [2, 12, 40, 700])
def test_matrix_is_drawn_and_listed_when_small_or_large(tmp_path: Path, size: int) -> None:
    counts = np.diag(np.arange(1, size + 1))
    counts[0, 1] = 3
    labels = tuple(f"class {number}" for number in range(size))
    confusion = ConfusionMatrix(labels, labels, counts)
    write_confusion_image(tmp_path / "matrix.png", confusion, "roses: validation after epoch 1")
    write_confusion_table(tmp_path / "matrix.csv", confusion)
    with Image.open(tmp_path / "matrix.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert 200 < max(pixels.shape) < 1000
    blue = (pixels[..., 2] - pixels[..., 0] > 100).mean()
    assert 0.1 / size < blue < 2 / size  # the diagonal
    rows = list(csv.DictReader((tmp_path / "matrix.csv").open()))
    assert len(rows) == size + 1
    assert rows[1] == {"truth": "class 0", "answer": "class 1", "images": "3"}


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.4, "8 s"), (209, "3 min 29 s"), (7500, "2 h 5 min"), (59.7, "1 min 0 s")]
)
def test_duration_has_two_units_when_long(seconds: float, text: str) -> None:
    assert duration(seconds) == text
