"""Runs in MLflow: what `train sync` sends, and trainings whose servers fail."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from typer.testing import Result

from tests.errors import error_codes
from tests.fixture_types import Command
from tests.integration.train.conftest import CopyDigits, WriteConfig
from tests.mlflow_server import MlflowServer
from tests.object_store import ObjectStore
from tests.web import ANY_PORT, Quiet, listening
from train.engine.fit import FitResult
from tritonkit.checkpoint import read_spec
from tritonkit.plugins import register
from tritonkit.system.commands import free_ports
from tritonkit.system.files import file_sha256

EPOCHS = 6
LOCAL = {"mlflow.json", "last.safetensors", "last.golden.npz", "last.sketch.npz"}
OWN_TAGS = {"tritonkit.run", "run_folder", "mlflow.runName"}
Action = Callable[[], object]
_at_epoch: dict[int, Action] = {}
"""What the callback `outside` does after each epoch."""


@register("callback", "outside")
class Outside(Callback):
    """Something that happens outside the training after an epoch."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        _at_epoch.get(trainer.current_epoch + 1, lambda: None)()


def free_port() -> int:
    return free_ports(1)[0]


class Refusing(Quiet, BaseHTTPRequestHandler):
    """A server that knows nobody, as a proxy in front of MLflow is."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815 - the name that the server looks for


class ReadOnly(Quiet, BaseHTTPRequestHandler):
    """An MLflow server without experiments, whose user may not create one."""

    def do_GET(self) -> None:
        self._refuse(404, "RESOURCE_DOES_NOT_EXIST")

    def do_POST(self) -> None:
        self._refuse(403, "PERMISSION_DENIED")

    def _refuse(self, status: int, code: str) -> None:
        body = json.dumps({"error_code": code, "message": "no"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def record(run: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run / "mlflow.json").read_text())
    return document


def run_in_mlflow(run: Path) -> Run:
    return MlflowClient().get_run(record(run)["run_id"])


def hashes_in_mlflow(run: Path, folder: Path) -> dict[str, str]:
    """Download all files of a run."""
    MlflowClient().download_artifacts(record(run)["run_id"], "", str(folder))
    return hashes_of(folder)


def hashes_of(folder: Path) -> dict[str, str]:
    names = {path: path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {
        name: file_sha256(path)
        for path, name in names.items()
        if not name.startswith((".", "lightning/", "tensorboard/")) and name not in LOCAL
    }


def history(run: Path) -> dict[str, list[tuple[int, float]]]:
    client, found = MlflowClient(), run_in_mlflow(run)
    return {
        name: [(metric.step, metric.value) for metric in client.get_metric_history(found.info.run_id, name)]
        for name in found.data.metrics
    }


@pytest.fixture
def copied(trained: FitResult, tmp_path: Path) -> Path:
    """A finished run of one's own."""
    return Path(shutil.copytree(trained.run, tmp_path / "runs" / "tiny" / "1"))


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MLflow's own store in a file, without a server; the working folder has an `.env` that leads to it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / ".env").write_text(f"MLFLOW_TRACKING_URI=sqlite:///{tmp_path / 'mlflow.db'}\n")
    return tmp_path / "mlflow.db"


def test_sync_sends_each_thing_once_when_called_again(
    copied: Path, database: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copied / "served").mkdir()
    (copied / "served" / "config.pbtxt").write_text('name: "tiny"\n')  # as an export leaves it
    first = command("train", "sync", copied, "--json")
    assert first.exit_code == 0, first.output
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    found = run_in_mlflow(copied)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "tiny/1")
    assert found.data.params["optimizer.lr"] == "0.005"
    assert (
        found.data.tags["data_fingerprint"] == json.loads((copied / "splits" / "data.json").read_text())["fingerprint"]
    )
    assert [step for step, _ in history(copied)["val_accuracy"]] == list(range(1, 9))
    assert hashes_in_mlflow(copied, tmp_path / "downloaded") == hashes_of(copied)
    assert json.loads(command("train", "sync", copied, "--json").stdout)["sent"] == 0
    # A changed parameter and a changed file of a resumed run are sent alone.
    config = copied / "config.yaml"
    config.write_text(config.read_text().replace("epochs: 8", "epochs: 9"))
    assert json.loads(command("train", "sync", copied, "--json").stdout)["sent"] == 2
    tags = run_in_mlflow(copied).data.tags
    assert (tags["resumed.epochs"], found.data.params["epochs"]) == ("9", "8")
    # A run stays in its experiment. MLflow takes 100 tags at a time.
    tracker = {"name": "mlflow", "experiment": "other", "tags": {f"tag {number}": "x" for number in range(120)}}
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "trackers": [tracker]}))
    moved = json.loads(command("train", "sync", copied, "--json").stdout)
    assert (moved["run_id"], moved["experiment"]) == (found.info.run_id, "tiny")
    assert run_in_mlflow(copied).data.tags["tag 119"] == "x"
    # The answer to the creation of the run was lost, or the run was deleted.
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "trackers": ["mlflow"]}))
    kept = {**record(copied), "run_id": None}
    (copied / "mlflow.json").write_text(json.dumps(kept))
    command("train", "sync", copied)
    assert record(copied)["run_id"] == found.info.run_id
    MlflowClient().delete_run(found.info.run_id)
    assert json.loads(command("train", "sync", copied, "--json").stdout)["sent"] > 20
    assert record(copied)["run_id"] != found.info.run_id


def test_sync_says_what_is_wrong_when_the_server_refuses_or_is_away(
    copied: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for folder, code in ((copied, "tracking.no_server"), (tmp_path, "run.not_a_run")):
        result = command("train", "sync", folder, "--json")
        assert (result.exit_code, error_codes(result)) == (2, {code})
    with listening(ThreadingHTTPServer(ANY_PORT, Refusing)) as site:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://u:pw@127.0.0.1:{site.server_port}")
        result = command("train", "sync", copied, "--json")
        assert (result.exit_code, error_codes(result)) == (2, {"tracking.credentials"})
        assert "pw" not in result.output
    with listening(ThreadingHTTPServer(ANY_PORT, ReadOnly)) as site:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{site.server_port}")
        result = command("train", "sync", copied, "--json")
        assert (result.exit_code, error_codes(result)) == (2, {"tracking.credentials"})
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    result = command("train", "sync", copied, "--json")
    assert (result.exit_code, error_codes(result)) == (3, {"tracking.unreachable"})


def test_resume_needs_a_server_when_the_run_is_tracked(
    copied: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (copied / "best.safetensors").unlink()  # as a stopped run
    config = copied / "config.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "trackers": ["mlflow"]}))
    before = set(tmp_path.iterdir())
    result = command("train", "resume", copied, "--json")
    assert (result.exit_code, "tracking.no_server" in error_codes(result)) == (2, True), result.output
    assert set(tmp_path.iterdir()) == before


@pytest.fixture(scope="module")
def server(object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server whose files lie in the bucket `mlflow` of the real S3 server."""
    import s3fs

    environment = {**object_store.environment, "MLFLOW_S3_ENDPOINT_URL": object_store.url}
    filesystem = s3fs.S3FileSystem(
        key=object_store.access_key, secret=object_store.secret_key, endpoint_url=object_store.url
    )
    filesystem.mkdir("mlflow")
    running = MlflowServer(tmp_path_factory.mktemp("mlflow"), "s3://mlflow", environment)
    running.start()
    yield running
    running.kill()


@pytest.fixture
def train_with(
    server: MlflowServer,
    copy_digits: CopyDigits,
    write_config: WriteConfig,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Result]:
    """Train with all trackers; the environment leads to the servers."""
    for name, value in {**server.environment, "MLFLOW_TRACKING_URI": server.url}.items():
        monkeypatch.setenv(name, value)
    config = write_config(
        tmp_path / "config.yaml",
        copy_digits(tmp_path / "data"),
        epochs=EPOCHS,
        trackers=["csv", "tensorboard", {"name": "mlflow", "experiment": tmp_path.name, "tags": {"team": "digits"}}],
        callbacks=["outside"],
    )

    def train(*overrides: str, at_epoch: dict[int, Action] | None = None) -> Result:
        _at_epoch.clear()
        _at_epoch.update(at_epoch or {})
        return command("train", "fit", config, *overrides)

    return train


@pytest.mark.drill
def test_run_equals_an_undisturbed_one_when_the_servers_were_killed(
    train_with: Callable[..., Result], server: MlflowServer, object_store: ObjectStore, tmp_path: Path, command: Command
) -> None:
    def kill() -> None:
        server.kill()
        object_store.kill()

    def start() -> None:
        object_store.start()
        server.start()

    undisturbed = train_with()
    assert undisturbed.exit_code == 0, undisturbed.output
    assert "MLflow" not in undisturbed.stderr
    disturbed = train_with(at_epoch={EPOCHS // 3: kill, EPOCHS * 2 // 3: start})
    assert disturbed.exit_code == 0, disturbed.output
    first, second = (tmp_path / "runs" / "tiny" / number for number in "12")
    warnings = [line for line in disturbed.stderr.splitlines() if "MLflow" in line]
    assert len(warnings) == 1
    assert f"train sync {second}" in warnings[0]
    assert command("train", "sync", second).exit_code == 0
    runs = [run_in_mlflow(run) for run in (first, second)]
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert runs[0].data.params == runs[1].data.params
    assert history(first) == history(second)
    assert len(history(first)["train_loss"]) == EPOCHS
    tags = [{name: value for name, value in run.data.tags.items() if name not in OWN_TAGS} for run in runs]
    assert tags[0] == tags[1]
    assert tags[0]["team"] == "digits"
    files = [hashes_in_mlflow(run, tmp_path / f"from_mlflow_{run.name}") for run in (first, second)]
    assert [hashes_of(first), hashes_of(second)] == files
    assert files[0].keys() == files[1].keys() >= {"best.safetensors", "golden.npz", "confusion/006.png", "curves.png"}
    assert [read_spec(run / "best.safetensors").lineage.mlflow_run for run in (first, second)] == [
        run.info.run_id for run in runs
    ]


@pytest.mark.drill
def test_run_in_mlflow_goes_on_when_resumed(
    train_with: Callable[..., Result], tmp_path: Path, command: Command
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    assert train_with(at_epoch={4: interrupt}).exit_code == 130
    run = tmp_path / "runs" / "tiny" / "1"
    deadline = time.monotonic() + 60
    while record(run)["status"] != "KILLED":  # the sender ends by itself
        assert time.monotonic() < deadline
        time.sleep(0.1)
    stopped = run_in_mlflow(run)
    assert (stopped.info.status, len(history(run)["val_loss"])) == ("KILLED", 4)
    _at_epoch.clear()
    resumed = command("train", "resume", run)
    assert resumed.exit_code == 0, resumed.output
    found = run_in_mlflow(run)
    assert (found.info.run_id, found.info.status) == (stopped.info.run_id, "FINISHED")
    assert [step for step, _ in history(run)["val_loss"]] == list(range(1, EPOCHS + 1))


@pytest.mark.drill
def test_wrong_credentials_and_buckets_are_errors_when_training_starts(
    train_with: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MlflowClient().create_experiment("lost", "s3://no-such-bucket/lost")
    result = train_with("trackers=[{name: mlflow, experiment: lost}]")
    assert (result.exit_code, "the bucket of its files does not exist" in result.stderr) == (2, True), result.output
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    result = train_with()
    assert (result.exit_code, "AWS_SECRET_ACCESS_KEY" in result.stderr) == (2, True), result.output
    with listening(ThreadingHTTPServer(ANY_PORT, Refusing)) as site:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{site.server_port}")
        result = train_with()
    assert (result.exit_code, "MLFLOW_TRACKING_PASSWORD" in result.stderr) == (2, True), result.output
    assert not (tmp_path / "runs").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    away = train_with("epochs=1")
    assert away.exit_code == 0, away.output
    assert away.stderr.count("train sync") == 1
    assert read_spec(tmp_path / "runs" / "tiny" / "1" / "best.safetensors").lineage.mlflow_run is None
