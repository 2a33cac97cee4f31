"""Fixtures that several rooms share: real data, tiny networks, a real Triton."""

from __future__ import annotations

import fcntl
import importlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
import timm
import torch
from torch import nn
from typer.testing import CliRunner, Result

from builder.pipeline import export
from builder.request import ExportRequest
from builder.sources import source_from_state_dict
from server.process import Server, running_servers, stop
from tests.fixture_types import Command, MakeNetwork, NetworkOf, Ports
from tests.object_store import ObjectStore
from tests.postgres import PostgresServer
from tests.serving import options_for, serving
from tritonkit.export_options import ForeignModelOptions
from tritonkit.images.preprocess import Preprocess
from tritonkit.networks.backbones import architecture_of, dense_architecture_of
from tritonkit.networks.network import Network, save_network
from tritonkit.spec import ModelSpec, Normalize, TaskSpec, TensorSpec, image_input
from tritonkit.system import commands
from tritonkit.system.local_servers import STATE_VARIABLE
from tritonkit.tasks import task_for
from tritonkit.triton.connection import ADMIN_TOKEN_VARIABLE, TOKEN_VARIABLE

DATA = Path(__file__).parents[1] / ".cache" / "data"
LABELS = ("cat", "dog", "bird")
FAMILIES = ("resnet18", "efficientnet_b0", "vit_tiny_patch16_224")
ROOMS = {"bench": "benchmarks"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with drills first: they take minutes, and as the last file a drill would run alone."""
    slow = {item.path for item in items if item.get_closest_marker("drill")}
    items.sort(key=lambda item: item.path not in slow)


def _fetched(folder: Path) -> Path:
    if not folder.is_dir():
        pytest.fail(f"{folder} is missing: run `make data` first")
    return folder


@pytest.fixture(scope="session")
def photos() -> Path:
    """Four real photographs, as JPEG."""
    return _fetched(DATA / "photos")


@pytest.fixture(scope="session")
def digits() -> Path:
    """Handwritten digits, a folder a label, as PNG."""
    return _fetched(DATA / "digits")


@pytest.fixture(scope="session")
def lite0() -> Path:
    """ImageNet weights as a foreign state dict, and their labels."""
    return _fetched(DATA / "lite0")


@pytest.fixture
def command() -> Command:
    """Run a console script's application in this process: command("client", "infer", path, ...)."""

    def run(name: str, *arguments: object) -> Result:
        app = importlib.import_module(f"{ROOMS.get(name, name)}.cli").app
        return CliRunner().invoke(app, list(map(str, arguments)))

    return run


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    """A residual network of three classes at 32 x 32 pixels."""
    how = Preprocess(height=32, width=32)
    return ModelSpec(
        name="pets",
        task="multiclass",
        architecture=architecture_of("test_resnet", 32, 32),
        input=image_input(how),
        outputs=(TensorSpec(name="probabilities", dtype="FP32", shape=(3,)),),
        preprocess=how,
        normalize=Normalize(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
        labels=LABELS,
    )


@pytest.fixture(scope="session")
def make_network(spec: ModelSpec) -> MakeNetwork:
    """Build a network of a timm architecture with random weights that are the same every time."""

    def made(architecture: str) -> Network:
        torch.manual_seed(0)
        built = architecture_of(architecture, 32, 32)
        return Network(spec.model_copy(update={"architecture": built})).eval()

    return made


@pytest.fixture(scope="session")
def network_of() -> NetworkOf:
    """Build a network that answers a question, with random weights that are the same every time."""

    def built(question: TaskSpec, side: int | None = None) -> Network:
        torch.manual_seed(0)
        dense = task_for(question).dense
        side = side or (64 if dense else 32)
        how = Preprocess(height=side, width=side)
        spec = ModelSpec(
            **question.model_dump(),
            name=f"asked_{question.task}",
            architecture=dense_architecture_of("Unet", "tu-test_resnet")
            if dense
            else architecture_of("test_resnet", side, side),
            input=image_input(how),
            outputs=task_for(question).outputs(image_input(how)),
            preprocess=how,
            normalize=Normalize(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
        )
        return Network(spec).eval()

    return built


@pytest.fixture
def checkpoint(tmp_path: Path, make_network: MakeNetwork) -> Path:
    """A checkpoint of the residual network."""
    path = tmp_path / "pets.safetensors"
    save_network(path, make_network("test_resnet"))
    return path


@pytest.fixture(scope="session")
def exported_once(tmp_path_factory: pytest.TempPathFactory, make_network: MakeNetwork) -> Path:
    """A repository with the residual network, to be copied from."""
    folder = tmp_path_factory.mktemp("exported")
    save_network(folder / "pets.safetensors", make_network("test_resnet"))
    order = ExportRequest(source=folder / "pets.safetensors", repository=folder / "repository", max_batch=8)
    export(order)
    return order.repository


@pytest.fixture
def tiny_repository(tmp_path: Path, exported_once: Path) -> Path:
    """A repository of one's own with the model `pets`, version 1."""
    return Path(shutil.copytree(exported_once, tmp_path / "tiny" / "repository"))


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of three timm families at their own sizes, with random weights and ten labels."""
    folder = tmp_path_factory.mktemp("families")
    (folder / "labels.txt").write_text("\n".join(f"label {i}" for i in range(10)))
    checkpoints = {}
    for family in FAMILIES:
        torch.manual_seed(0)
        torch.save(timm.create_model(family, num_classes=10).state_dict(), folder / f"{family}.pth")
        source = source_from_state_dict(
            folder / f"{family}.pth", ForeignModelOptions(model=family, labels=folder / "labels.txt")
        )
        checkpoints[family] = folder / f"{family}.safetensors"
        save_network(checkpoints[family], source.network)
    return checkpoints


def _publish_all(repository: Path, families: dict[str, Path], lite0: Path) -> None:
    for path in families.values():
        export(ExportRequest(source=path, repository=repository, max_batch=8))
    foreign = ForeignModelOptions(model="tf_efficientnet_lite0", labels=lite0 / "labels.txt")
    source = source_from_state_dict(lite0 / "efficientnet_lite0.pth", foreign, name="imagenet")
    export(ExportRequest(source=source, repository=repository, max_batch=8))


@pytest.fixture(scope="session")
def repository(
    tmp_path_factory: pytest.TempPathFactory, families: dict[str, Path], lite0: Path, worker_id: str
) -> Path:
    """A repository with the three families and real ImageNet weights, each with a passed verdict.

    One of pytest-xdist's workers makes it, and all copy it.
    """
    mine = tmp_path_factory.mktemp("served") / "repository"
    if worker_id == "master":
        _publish_all(mine, families, lite0)
        return mine
    made = tmp_path_factory.getbasetemp().parent / "served_by_all"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            part = made.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            _publish_all(part / "repository", families, lite0)
            part.rename(made)
    return Path(shutil.copytree(made / "repository", mine))


@pytest.fixture
def free_ports() -> Ports:
    """The options of `server up` for three ports that nobody uses."""

    def options() -> list[str]:
        http, grpc, metrics = map(str, commands.free_ports())
        return ["--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics]

    return options


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A state folder of one's own for servers, of which none is left, and no token in the environment."""
    for variable in (ADMIN_TOKEN_VARIABLE, TOKEN_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    yield
    for server in running_servers():
        stop(server)


@pytest.fixture(scope="session")
def triton(repository: Path) -> Iterator[Server]:
    """A real Triton that serves `repository`, stopped with the tests, however they end."""
    with serving(options_for(repository)) as server:
        yield server


@pytest.fixture(scope="session")
def served(triton: Server) -> str:
    """Triton's gRPC address."""
    return triton.options.grpc_url


@pytest.fixture(scope="session")
def served_http(triton: Server) -> str:
    """Triton's HTTP address."""
    return triton.options.http_url


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A real S3 server; `object_store.environment` leads libraries and child processes to it."""
    store = ObjectStore(tmp_path_factory.mktemp("object_store"))
    store.start()
    yield store
    store.kill()


@pytest.fixture
def bucket(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket, `s3://NAME`, of the real S3 server that this test's environment leads to."""
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # those of an earlier test's environment
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL; `postgres.create_database()` gives the address of a new database."""
    # Not below pytest's folder, which the server's own user may not enter.
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        server = PostgresServer(Path(folder) / "data")
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A small third-party classifier."""
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3).eval()


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """The labels of the three classes of the third-party classifier."""
    path = tmp_path / "labels.txt"
    path.write_text("cat\ndog\nbird\n")
    return path
