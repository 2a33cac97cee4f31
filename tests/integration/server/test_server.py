"""`server` on a real Triton: it starts, tells why when it does not, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException
from typer.testing import Result

from server.load_failures import load_failures
from server.process import Options, Server, running_servers, start, state_folder, stop, wait_until_ready
from server.runtimes.pip_runtime import PipRuntime
from server.runtimes.table import RUNTIMES
from server.security import RequestTokens

Command = Callable[..., Result]
Ports = Callable[[], list[str]]


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TRITONKIT_STATE", str(tmp_path / "state"))
    yield
    for server in running_servers():  # a failed test must leave no server either
        stop(server)


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def have_ended(processes: list[psutil.Process], within_s: float) -> bool:
    return not psutil.wait_procs(processes, timeout=within_s)[1]


@pytest.mark.usefixtures("own_state")
def test_server_serves_until_told_to_stop(command: Command, tiny_repository: Path, free_ports: Ports) -> None:
    ports = free_ports()
    up = command("server", "up", "--repository", tiny_repository, *ports)
    assert up.exit_code == 0, up.stderr
    assert "ready: gRPC 127.0.0.1:" in up.stdout
    logs = command("server", "logs")
    assert f"of gRPC port {ports[3]}, of {tiny_repository}, running, last written 20" in logs.stderr
    assert "log of" not in logs.stdout
    status = command("server", "status")
    assert re.search(r"pets\s+1\s+READY", status.stdout)
    processes = family(running_servers()[0].pid)
    assert len(processes) > 1, "tritonserver and its Python stub"
    addresses = {c.laddr[0] for p in processes for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}
    down = command("server", "down")
    assert down.exit_code == 0
    assert have_ended(processes, within_s=1)
    assert "no server is running" in command("server", "status").stdout
    assert not list(state_folder().rglob("server.json"))


@pytest.mark.usefixtures("own_state")
def test_server_names_the_reason_when_a_model_fails_to_load(
    command: Command, tiny_repository: Path, free_ports: Ports
) -> None:
    artifact = tiny_repository / "pets" / "1" / "model.onnx"
    artifact.write_bytes(artifact.read_bytes()[:5000])
    refused = command("server", "up", "--repository", tiny_repository, *free_ports(), "--json")
    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["error"]["code"] == "doctor.errors"
    assert "--force" in refused.stderr
    up = command("server", "up", "--force", "--repository", tiny_repository, *free_ports())
    assert up.exit_code == 3
    assert "model pets version 1:" in up.stderr
    assert "Protobuf parsing failed" in up.stderr or "InvalidProtobuf" in up.stderr
    assert "Traceback" not in up.stderr
    assert not running_servers()
    logs = command("server", "logs")
    assert "failed to load" in logs.stdout
    assert f", of {tiny_repository}, no longer running, last written 20" in logs.stderr


@pytest.mark.usefixtures("own_state")
def test_no_server_is_stopped_when_several_run_and_none_is_named(
    command: Command, tiny_repository: Path, fussy_repository: Path, free_ports: Ports
) -> None:
    ports = {repository: free_ports() for repository in (tiny_repository, fussy_repository)}
    for repository, chosen in ports.items():
        http, grpc, metrics = map(int, chosen[1::2])
        options = Options(repository=repository, http_port=http, grpc_port=grpc, metrics_port=metrics)
        start(options, stops_with_parent=True)
    refused = command("server", "down", "--json")
    assert refused.exit_code == 2
    assert json.loads(refused.stdout)["error"]["code"] == "server.several_running"
    assert "--all" in refused.stderr
    for repository, chosen in ports.items():
        assert f"--grpc-port {chosen[3]}  {repository}" in refused.stderr
    assert len(running_servers()) == 2
    assert command("server", "down", "--all", "--grpc-port", ports[tiny_repository][3]).exit_code == 2
    down = command("server", "down", "--all")
    assert (down.exit_code, running_servers()) == (0, [])
    assert f"  {ports[fussy_repository][3]}  {fussy_repository}" in down.stdout


@pytest.mark.usefixtures("own_state")
def test_server_names_the_reason_when_the_configuration_is_wrong(
    command: Command, tiny_repository: Path, free_ports: Ports
) -> None:
    config = tiny_repository / "pets" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "probabilities"', 'name: "scores"'))
    up = command("server", "up", "--force", "--repository", tiny_repository, *free_ports())
    assert up.exit_code == 3
    assert "config.pbtxt has the outputs ['scores'], the graph has ['probabilities']" in up.stderr


@pytest.mark.usefixtures("own_state")
def test_server_names_the_holder_when_a_port_is_in_use(
    command: Command, tiny_repository: Path, free_ports: Ports
) -> None:
    ports = free_ports()
    port = ports[ports.index("--grpc-port") + 1]
    holder = subprocess.Popen(
        [sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1"], stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 10
        while not psutil.Process(holder.pid).net_connections() and time.monotonic() < deadline:
            time.sleep(0.05)
        up = command("server", "up", "--repository", tiny_repository, *ports)
    finally:
        holder.kill()
        holder.wait()
    assert up.exit_code == 3
    assert f"gRPC port {port} is in use by python" in up.stderr
    assert f"pid {holder.pid}" in up.stderr


@pytest.mark.usefixtures("own_state")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_server_stops_when_its_parent_ends(tiny_repository: Path, free_ports: Ports, number: signal.Signals) -> None:
    command = ["server", "up", "--foreground", "--repository", str(tiny_repository), *free_ports()]
    parent = subprocess.Popen(
        [str(Path(sys.executable).with_name(command[0])), *command[1:]], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline().startswith("ready")
    processes = family(parent.pid)[1:]
    assert len(processes) > 1
    os.kill(parent.pid, number)
    assert have_ended(processes, within_s=30)
    parent.wait(30)
    assert running_servers() == []


LOADS_WHILE_MARKED = """
import time
from pathlib import Path

MARK = Path({mark!r})

class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, args):
        MARK.touch()
        while MARK.exists():
            time.sleep(0.05)

    def execute(self, requests):
        return []
"""


@pytest.mark.usefixtures("own_state")
def test_no_triton_is_left_when_up_is_stopped_while_models_load(tmp_path: Path, free_ports: Ports) -> None:
    version, mark = tmp_path / "repository" / "slow" / "1", tmp_path / "loading"
    version.mkdir(parents=True)
    (version / "model.py").write_text(LOADS_WHILE_MARKED.format(mark=str(mark)))
    ends = "".join(f'{kind} {{ name: "{kind}" data_type: TYPE_FP32 dims: [1] }}\n' for kind in ("input", "output"))
    (version.parent / "config.pbtxt").write_text(f'backend: "python"\n{ends}instance_group {{ count: 1 }}\n')
    program = [str(Path(sys.executable).with_name("server")), "up", "--repository", str(tmp_path / "repository")]
    up = subprocess.Popen([*program, *free_ports()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while up.poll() is None and not mark.exists():
        time.sleep(0.05)
    processes = [psutil.Process(server.pid) for server in running_servers()]
    processes += [child for process in processes for child in process.children(recursive=True)]
    assert len(processes) > 2, "the supervisor, Triton and its stub"
    up.send_signal(signal.SIGTERM)
    mark.unlink()
    _, stderr = up.communicate(timeout=120)
    assert (up.returncode, "error: stopped by" in stderr) == (130, True), stderr
    assert have_ended(processes, within_s=30)
    assert running_servers() == []


class PortTakenOnStop(PipRuntime):
    """Stops a server, whose port another server takes at once."""

    def stop(self, server: Server) -> None:
        successor = Server(options=server.options, tokens=RequestTokens(admin="another"))
        (server.folder / "server.json").write_text(successor.model_dump_json())


@pytest.mark.usefixtures("own_state")
@pytest.mark.parametrize("keep_log", [True, False])
def test_stop_leaves_the_folder_alone_when_another_server_has_taken_the_port(
    tmp_path: Path, keep_log: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUNTIMES, "pip", PortTakenOnStop)
    server = Server(options=Options(repository=tmp_path), tokens=RequestTokens(admin="a"))
    (server.folder / "backends").mkdir(parents=True)
    stop(server, keep_log)
    assert sorted(path.name for path in server.folder.iterdir()) == ["backends", "server.json"]


def test_server_refuses_a_folder_without_models(command: Command, tmp_path: Path) -> None:
    up = command("server", "up", "--repository", tmp_path / "nothing", "--json")
    assert up.exit_code == 2
    assert json.loads(up.stdout)["error"]["code"] == "repository.missing"


@pytest.mark.usefixtures("own_state")
def test_server_says_how_to_get_triton_when_it_is_missing(
    command: Command, tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITONKIT_TRITON_ENV", str(tmp_path / "none"))
    up = command("server", "up", "--repository", tiny_repository, "--json")
    assert up.exit_code == 1
    codes = {problem["code"] for problem in json.loads(up.stdout)["error"]["problems"]}
    assert codes == {"server.no_triton"}
    assert "make setup" in up.stderr


@pytest.fixture
def fussy(
    fussy_repository: Path, free_ports: Ports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    monkeypatch.setenv("TRITONKIT_STATE", str(tmp_path / "state"))
    http, grpc, metrics = map(int, free_ports()[1::2])
    options = Options(repository=fussy_repository, http_port=http, grpc_port=grpc, metrics_port=metrics)
    server = start(options, stops_with_parent=True)
    wait_until_ready(server, 60)
    yield server
    stop(server)


def look_up(client: tritonclient.grpc.InferenceServerClient, index: int) -> float | str:
    tensor = tritonclient.grpc.InferInput("index", [1, 1], "INT64")
    tensor.set_data_from_numpy(np.array([[index]], np.int64))
    try:
        return float(client.infer("fussy", [tensor]).as_numpy("value")[0, 0])
    except InferenceServerException as error:
        return str(error.message())


@pytest.mark.usefixtures("own_state")
@pytest.mark.parametrize(("cache_mib", "hits"), [(0, 0), (4, 2)])
def test_server_keeps_answers_when_it_is_given_memory_for_them(
    command: Command, fussy_repository: Path, free_ports: Ports, cache_mib: int, hits: int
) -> None:
    with (fussy_repository / "fussy" / "config.pbtxt").open("a") as config:
        config.write("response_cache { enable: true }")
    ports = free_ports()
    up = command("server", "up", "--repository", fussy_repository, "--cache-mib", cache_mib, *ports)
    assert up.exit_code == 0, up.stderr
    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{ports[ports.index('--grpc-port') + 1]}")
    assert [look_up(client, index) for index in (3, 4, 3, 3)] == [30.0, 40.0, 30.0, 30.0]
    deadline = time.monotonic() + 10  # Triton counts an execution after its answer is sent
    while True:
        counted = client.get_inference_statistics("fussy", as_json=True)["model_stats"][0]
        if int(counted["execution_count"]) == 4 - hits or time.monotonic() > deadline:
            break
    assert int(counted["inference_stats"].get("cache_hit", {}).get("count", 0)) == hits
    assert int(counted["execution_count"]) == 4 - hits


def test_backend_batches_requests_and_fails_only_the_wrong_one(fussy: Server) -> None:
    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{fussy.options.grpc_port}")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda index: look_up(client, index), [0, 1, 2, 99, 4, 5, 6, 7]))
    invalid = answers.pop(3)
    assert answers == [0.0, 10.0, 20.0, 40.0, 50.0, 60.0, 70.0]
    assert isinstance(invalid, str)
    assert "onnxruntime:" in invalid
    assert "indices element out of data bounds" in invalid
    statistics = client.get_inference_statistics("fussy", as_json=True)["model_stats"][0]
    assert int(statistics["execution_count"]) < 8, "several requests ran as one batch"


def test_log_gives_triton_s_reason_without_python_frames() -> None:
    log = (
        "E1121 10:22:59.1 1 model_lifecycle.cc:642] \"failed to load 'm' version 2: Internal: ValueError: bad\\n"
        "\\nAt:\\n"
        '  /x/model.py(3): initialize\\n"\n'
        "E1121 10:22:59.1 1 model_repository_manager.cc:724] \"failed to load model 'n': at least one version\"\n"
    )
    assert load_failures(log) == ["model m version 2: Internal: ValueError: bad", "model n: at least one version"]
