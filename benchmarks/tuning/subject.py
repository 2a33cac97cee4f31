"""The served model that is tuned: its connections, its configuration, and the settings that fit it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.scenarios import Scenario
from benchmarks.target import BenchmarkPlan, BenchmarkTarget, connect
from benchmarks.tuning.served import config_from_json, loads_of, restore_after_kill
from benchmarks.tuning.space import GPU_INSTANCES, SearchSpace, Workers, cpu_workers, powers_of_two
from tritonkit.errors import CheckFailedError, InputError
from tritonkit.repository.model_folder import ModelFolder
from tritonkit.repository.tuning.record import TuningGoal
from tritonkit.repository.tuning.settings import ServingSettings, takes_threads
from tritonkit.runtimes.formats import TRT
from tritonkit.system.local_servers import recorded_server_at
from tritonkit.triton.backends import ModelConfig, backend_of
from tritonkit.triton.client import TritonClient
from tritonkit.triton.connection import Connection, recorded_tokens
from tritonkit.triton.model_config import CONFIG_FILE, read_config

_LOAD_DEADLINE_S = 120.0
"""A configuration that takes longer to load is a failed trial."""
_REQUEST_DEADLINES = 20
"""A request may take this many times the bound."""


@dataclass(frozen=True)
class TuningPlan:
    """The options of `bench tune`."""

    model: str
    url: str
    goal: TuningGoal
    minutes: float
    repository: Path | None = None
    """None: that of the local server."""
    images: Path | None = None
    shapes: dict[str, tuple[int, ...]] | None = None
    cores: int | None = None
    """Cores of the server's machine; None: those of this one."""
    write: bool = True
    space: SearchSpace | None = None
    """The settings to try; None: all that fit the model and the machine."""
    output: Path | None = None
    """The benchmark record of the winner, if one is written; that of the settings before is beside it."""


@dataclass(frozen=True)
class TuningSubject:
    """The served model that is tuned."""

    control: TritonClient
    plan: BenchmarkPlan
    target: BenchmarkTarget
    original: ModelConfig
    """Of the repository."""
    completed: ModelConfig
    """As the server completed it."""
    repository: Path | None
    """None where no file can be changed."""
    not_local: str | None
    """Why no file can be changed."""
    current: ServingSettings
    largest: int
    """The largest batch that the verdict covers, else that of the configuration."""


def open_subject(plan: TuningPlan, stack: ExitStack) -> TuningSubject:
    """Connect to the server, with the model's own configuration loaded. stack: closes the connections.

    Raises InputError for a model or options that cannot be tuned, TokenError, InferenceError.
    """
    control = stack.enter_context(control_client(plan.url))
    served = control.model(plan.model)
    if served.steps or served.encoded_of:
        owner = served.encoded_of or " or ".join(served.steps)
        raise InputError(
            f"{plan.model}: calls {owner}, whose settings decide about its speed; tune {owner}",
            code="benchmark.tune_ensemble",
        )
    if not served.max_batch:
        raise InputError(
            f"{plan.model}: has no batch axis (max_batch_size: 0), so there is no batching to tune",
            code="benchmark.no_batching",
        )
    try:
        if not restore_after_kill(control, plan.model):
            control.load(plan.model)  # if its files changed since it was loaded; also checks the admin token
    except CheckFailedError as error:
        raise InputError(
            f"{plan.model}: {plan.url} cannot load it again ({error}), which tuning needs; is the server started with "
            "--model-control-mode=explicit, as by `server up`?",
            code="benchmark.cannot_load",
        ) from error
    completed = config_from_json(control.config(plan.model))
    repository, not_local = _served_repository(plan, control, completed)
    original = read_config(repository / plan.model) if repository is not None else completed
    original.name = plan.model
    deadline_s = max(10.0, _REQUEST_DEADLINES * plan.goal.p99_ms / 1e3)
    load = stack.enter_context(
        TritonClient(Connection(url=plan.url, deadline_s=deadline_s), tokens=recorded_tokens(plan.url))
    )
    benchmark = BenchmarkPlan(
        model=plan.model,
        url=plan.url,
        scenario=_scenario(plan.goal),
        batch=plan.goal.batch,
        repository=repository or Path("model_repository"),
        images=plan.images,
        shapes=plan.shapes or {},
    )
    target = connect(benchmark, client=load)
    current = ServingSettings.from_config(completed)
    largest = _verified_batch(repository, plan.model, completed)
    return TuningSubject(control, benchmark, target, original, completed, repository, not_local, current, largest)


def _scenario(goal: TuningGoal) -> Scenario:
    arrivals: Literal["poisson"] | None = "poisson" if goal.load == "rate" else None
    return Scenario("open" if arrivals else "closed", tuple(loads_of(goal)), arrivals)


def space_of(config: ModelConfig, largest: int, batch: int, cores: int) -> SearchSpace:
    """Return the settings to try for a model.

    config: as the server completed it. largest: the largest batch that the verdict covers. batch: images of a request.
    """
    (group,) = config.instance_group
    on_gpu, is_plan = group.kind == group.KIND_GPU, backend_of(config) == TRT.backend
    return SearchSpace(
        workers=tuple(Workers(count, None) for count in GPU_INSTANCES)
        if on_gpu
        else cpu_workers(cores, takes_threads(config)),
        max_batch=powers_of_two(largest, batch),
        cuda_graphs=(False, True) if on_gpu and is_plan else (False,),
        profiles=tuple(group.profile) or (None,),
    )


def control_client(url: str) -> TritonClient:
    """Return a client that may load models, with the tokens of a server that `server up` started here."""
    return TritonClient(Connection(url=url, deadline_s=_LOAD_DEADLINE_S), tokens=recorded_tokens(url))


def _served_repository(
    plan: TuningPlan, control: TritonClient, completed: ModelConfig
) -> tuple[Path | None, str | None]:
    """Return the repository that the server reads, or why its files cannot be changed."""
    address = control.connection.address
    if not address.is_loopback:
        return None, f"{address.host} is another machine"
    local = recorded_server_at(address.port)
    folder = plan.repository or (local.repository if local is not None else Path("model_repository"))
    if not (folder / plan.model / CONFIG_FILE).is_file():
        return None, f"there is no {folder / plan.model / CONFIG_FILE}; name the served repository with --repository"
    config = read_config(folder / plan.model)
    for key in config.parameters:
        if config.parameters[key] != completed.parameters[key]:
            return None, f"{folder / plan.model / CONFIG_FILE} is not the configuration that {control.url} serves"
    return folder, None


def _verified_batch(repository: Path | None, model: str, completed: ModelConfig) -> int:
    if repository is None:
        return int(completed.max_batch_size)
    versions = ModelFolder.read(repository / model).loaded_versions
    verified = [version.verdict.max_batch for version in versions if version.verdict is not None]
    return min(verified) if len(verified) == len(versions) and verified else int(completed.max_batch_size)
