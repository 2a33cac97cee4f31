"""Runs a search, or continues it: the trials by one or several workers, then the page and the best configuration."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from sqlalchemy import URL

from train.databases import public_address
from train.experiments.child_run import fit_in_process, reported_error, start_process, stop_process
from train.experiments.folder import ExperimentFolder
from train.search.page import page_html
from train.search.result import SearchResult, best_yaml, search_result
from train.search.space import TrialSpace, load_search
from train.search.storage import study_address, translate_storage_errors
from train.search.study import SearchGoal, SearchStudy, search_options
from train.search.worker import work
from tritonkit.remotes import local_path
from tritonkit.system.console import warn
from tritonkit.system.files import atomic_write

_POLL_S = 0.2
_STOP_S = 45.0
"""How long a worker that is stopped may take to stop its training."""
BEST_FILE, REPORT_FILE = "best.yaml", "report.html"


class SearchOptions(NamedTuple):
    """The arguments of the command."""

    config: str
    overrides: Sequence[str] = ()
    folder: Path | None = None
    """Default: `<output>/<name>/search`."""
    study: str | None = None
    """The name of the study in the database; default: the configuration's."""
    storage: str | None = None
    """The address of the database; default: that of the environment, or a file in the folder."""
    workers: int = 1


def search(options: SearchOptions) -> SearchResult:
    """Run the trials that are left, and write `report.html` and `best.yaml` into the folder of the search.

    Raises ConfigError for a configuration or an address that cannot be used, ExternalError if the database or this
    machine fails, CheckFailedError if all trials fail, and the error of a training that concerns all trials.
    """
    with _opened(options) as (study, address):
        try:
            if options.workers == 1:
                work(study, fit_in_process, warn)
            else:
                _run_workers(options, study)
        except KeyboardInterrupt as stop:
            text = f"{str(stop) or 'stopped by Ctrl-C'}; continue with the same command"
            raise KeyboardInterrupt(text) from stop
        result = search_result(study, public_address(address))
    return write_result(study.space, result)


def run_worker(options: SearchOptions) -> None:
    """Run trials of a search as one of its workers. Raises as `search` does."""
    with _opened(options) as (study, _):
        work(study, fit_in_process, warn)


def write_result(space: TrialSpace, result: SearchResult) -> SearchResult:
    """Write the best configuration and the page; return the result with their paths."""
    config = best_yaml(space, result)
    texts = {REPORT_FILE: page_html(space, result, config), **({BEST_FILE: config} if config else {})}
    for name, content in texts.items():
        with atomic_write(result.folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    paths = {"report": result.folder / REPORT_FILE, "config": result.folder / BEST_FILE if config else None}
    return result.model_copy(update=paths)


@contextmanager
def _opened(options: SearchOptions) -> Iterator[tuple[SearchStudy, URL]]:
    """Open the folder and the study, and translate the errors of the database while the block runs."""
    space = load_search(local_path(options.config), options.overrides)
    goal, name = _goal(space), options.study or space.config.name
    path = space.config.output / space.config.name / "search" if options.folder is None else options.folder
    address = study_address(options.storage, path)
    is_own = Path(address.database or "").parent == path.absolute()
    place = {"study": name, "storage": None if is_own else public_address(address)}
    settings = {**search_options(space, goal), **place}
    with ExperimentFolder.open(path, "search", space.config, settings), translate_storage_errors(address):
        yield SearchStudy(address, name, space, goal, path), address


def _goal(space: TrialSpace) -> SearchGoal:
    metric = space.search.metric or f"val_{_monitor(space)}"
    direction = space.search.direction or ("minimize" if metric.endswith("loss") else "maximize")
    return SearchGoal(metric, direction)


def _monitor(space: TrialSpace) -> str:
    """Return the metric that selects the best epoch."""
    from train.tasks import training_task  # loads torch
    from tritonkit.plugins import load_plugins

    load_plugins(space.config.plugins)
    return training_task(space.config).monitor


def _run_workers(options: SearchOptions, study: SearchStudy) -> None:
    """Run the workers in processes of their own until all have ended. Raises the error of one if trials are left."""
    named = {"--folder": study.folder, "--study": study.name, "--storage": options.storage}
    goal = (f"search.metric={study.goal.metric}", f"search.direction={study.goal.direction}")
    arguments = ["search", options.config, *options.overrides, *goal, "--worker"]
    arguments += [word for name, value in named.items() if value is not None for word in (name, str(value))]
    with ExitStack() as stack:
        replies = [Path(stack.enter_context(TemporaryDirectory())) / "reply.json" for _ in range(options.workers)]
        processes: list[subprocess.Popen[bytes]] = []
        for reply in replies:
            processes.append(start_process(arguments, stack.enter_context(reply.open("wb")), None))
            stack.callback(stop_process, processes[-1], _STOP_S)
        # If this process is stopped, all workers are told first, and then awaited one by one.
        stack.callback(_terminate, processes)
        while any(process.poll() is None for process in processes):
            time.sleep(_POLL_S)
        errors = [
            reported_error(process.returncode, reply)
            for process, reply in zip(processes, replies, strict=True)
            if process.returncode
        ]
    if errors and any(not trial.state.is_finished() for trial in study.trials()):
        raise errors[0]


def _terminate(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
