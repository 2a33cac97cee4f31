"""The number of training processes, and the rank of this one. Loads without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from train.config.loading import Config
from tritonkit.errors import ConfigError


@dataclass(frozen=True)
class Processes:
    """The processes of a training."""

    on_host: int = 1
    """Processes on each host."""
    hosts: int = 1
    rank: int = 0
    """The number of this process among all."""
    local_rank: int = 0
    """The number of this process on its host."""
    is_member: bool = False
    """Whether a launcher started this process as one of several."""

    @property
    def count(self) -> int:
        """The number of processes on all hosts."""
        return self.on_host * self.hosts

    @classmethod
    def of_launcher(cls, environment: Mapping[str, str] = os.environ) -> Processes | None:
        """Read the variables that torchrun sets; None for a process that torchrun has not started."""
        if "TORCHELASTIC_RUN_ID" not in environment:
            return None
        names = ("LOCAL_WORLD_SIZE", "WORLD_SIZE", "RANK", "LOCAL_RANK")
        on_host, count, rank, local_rank = (int(environment[name]) for name in names)
        return cls(on_host, count // on_host, rank, local_rank, is_member=True)

    @classmethod
    def check_alone(cls, command: str) -> None:
        """Raise ConfigError if torchrun started several processes of a command that is the work of one.

        Only the first process of a host raises it. The others exit with code 0, because torchrun ends all processes,
        with what they have not yet printed, as soon as one fails.
        """
        launched = cls.of_launcher()
        if launched is None or launched.count == 1:
            return
        if launched.local_rank > 0:
            raise SystemExit(0)
        raise ConfigError(
            f"{command}: torchrun started {launched.count} processes, and this command is for one; start it without "
            "torchrun",
            code="processes.torchrun",
        )

    def variables(self, rank: int, port: int) -> dict[str, str]:
        """Return the variables that torchrun would set for a process on this host."""
        return {
            "TORCHELASTIC_RUN_ID": "tritonkit",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(self.count),
            "LOCAL_WORLD_SIZE": str(self.on_host),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "GROUP_RANK": "0",
        }


def plan_processes(config: Config) -> Processes:
    """Return the processes of a run: torchrun's, else those that the configuration names. Raises ConfigError."""
    import torch

    launched = Processes.of_launcher()
    hosts = 1 if launched is None else launched.hosts
    if config.num_nodes not in (1, hosts):
        raise ConfigError(
            f"num_nodes: {config.num_nodes} hosts, but the command was started on {hosts}; start it on each host with: "
            f"torchrun --nnodes {config.num_nodes} --nproc-per-node N --rdzv-backend c10d --rdzv-endpoint HOST:PORT "
            "$(which train) fit …",
            code="config.num_nodes",
        )
    if launched is not None and launched.count > 1:
        _refuse_auto(config, launched.count)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if launched is not None:
        processes = launched
    else:
        processes = Processes((gpus or 1) if config.devices == "auto" else config.devices)
    if gpus and processes.on_host > gpus:
        raise ConfigError(
            f"devices: {processes.on_host} processes, but torch finds {gpus} GPU{'s' if gpus > 1 else ''}, and each "
            "process needs one; use auto",
            code="config.devices",
        )
    if processes.count > 1 and config.strategy == "ddp" and config.frozen_epochs:
        raise ConfigError(
            "strategy: ddp expects gradients for all weights, and frozen_epochs leaves some out; use auto",
            code="config.strategy",
        )
    return processes


def _refuse_auto(config: Config, processes: int) -> None:
    """Raise ConfigError for a number that each of torchrun's processes would find on its own, and differently."""
    advice = (
        f"auto is not for the {processes} processes of torchrun; set a number, or start the command without torchrun, "
        "with devices: N"
    )
    if config.batch_size == "auto":
        # Each process would wait for ever for the batches that another does not have.
        raise ConfigError(f"batch_size: {advice}", code="config.batch_size_auto")
    if config.optimizer.lr == "auto":
        raise ConfigError(f"optimizer.lr: {advice}; `train lr` finds one", code="config.lr_auto")


def strategy_name(config: Config, processes: Processes) -> str:
    """Return Lightning's name for the strategy of a run."""
    if processes.count == 1:
        return "auto"
    if config.strategy == "auto":
        # A frozen module has no gradients. Looking for such modules costs a little time in each step.
        return "ddp_find_unused_parameters_true" if config.frozen_epochs else "ddp"
    return config.strategy
