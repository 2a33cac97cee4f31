"""Sends a run to MLflow during the training, from a process of its own.

A thread would not do: it takes Python's lock from the training (importing mlflow alone takes seconds of it), and its
locks would be copied into the workers of the data loaders. The process runs `sync` on request, has low priority, and
sends what is left when the training is killed. Requests and answers are lines of JSON; at most one is unanswered.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from train.tracking import URI, server_name
from tritonkit.errors import ConfigError, InputError, TritonkitError
from tritonkit.system.console import warn

_SHORT_TIMEOUTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "AWS_MAX_ATTEMPTS": "2",
    "AWS_DEFAULTS_MODE": "standard",  # connects within 3.1 s
}
_START_S, _FIRST_S, _LAST_S = 60.0, 20.0, 60.0
"""Longest waits: for a connection, for the run's id, and for the rest after the training."""
_LOW_PRIORITY = 19


class Sender:
    """Starts the process that sends a run to MLflow, and exchanges requests with it.

    Only `check`, `start` and `finish` wait, each for a limited time.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_SHORT_TIMEOUTS, **environment},
            start_new_session=True,  # Ctrl-C is for the training
        )
        self._server, self._run = server_name(environment.get(URI, "")), Path("RUN")
        self._is_waiting = False
        self._warned: set[str] = set()
        """The codes of the errors that the user has seen. The sentence of one error differs from request to request."""
        self.url: str | None = None
        """The page of the run in MLflow, once it is known."""

    def check(self, experiment: str) -> None:
        """Check the connection before the training.

        Raises ConfigError for wrong credentials or a missing bucket. Warns if the server cannot be reached.
        """
        self._request({"experiment": experiment})
        error = self._answer(_START_S)
        if self._is_waiting:
            error = self._error(f"does not answer within {_START_S:.0f} s")
        if error is not None and error["is_input"]:
            self.stop()
            raise ConfigError(error["message"], code=error["code"])
        self._report(
            error, "The training goes on; checkpoints written before MLflow answers do not name their run in it"
        )

    def start(self, run: Path) -> None:
        """Create the run in MLflow, so that checkpoints can name it."""
        self._run = run
        self.send()
        self._report(self._answer(_FIRST_S))

    def send(self) -> None:
        """Send what is new, unless the last request is still at work. Never waits."""
        if self._is_waiting:
            self._report(self._answer(0))
        if not self._is_waiting:
            self._request({"run": str(self._run)})

    def finish(self) -> bool:
        """Send the rest, within a minute. Return whether MLflow has all of the run, and say so if it has not."""
        deadline = time.monotonic() + _LAST_S
        error = self._answer(_LAST_S) if self._is_waiting else None
        if not self._is_waiting:
            self._request({"run": str(self._run), "verify": True})
            error = self._answer(max(0.0, deadline - time.monotonic()))
        if self._is_waiting:
            error = self._error(f"did not take all files within {_LAST_S:.0f} s")
        self.stop()
        if error is not None and not self._report(error):
            warn(f"warning: MLflow does not have all of this run. {self._advice}")
        return error is None

    def abandon(self) -> None:
        """Let the process send the rest of a stopped training by itself."""
        with suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _request(self, request: dict[str, Any]) -> None:
        self._is_waiting = True
        with suppress(OSError):  # a dead process is noticed by the missing answer
            self._process.stdin.write(json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]

    def _answer(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the error in the answer; None if there is none, or if no answer comes in time."""
        output = self._process.stdout
        if output is None or not select.select([output], [], [], timeout_s)[0]:
            return None
        self._is_waiting = False
        try:
            answer = json.loads(output.readline())
        except ValueError:  # nothing, or half a line of a killed process
            return {"message": "the process that sends to MLflow has ended", "code": "", "is_input": False}
        self.url = answer["url"] or self.url
        error: dict[str, Any] | None = answer["error"]
        return error

    def _error(self, problem: str) -> dict[str, Any]:
        """Return the error of a request without an answer."""
        return {"message": f"MLflow at {self._server} {problem}", "code": "tracking.unreachable", "is_input": False}

    def _report(self, error: Mapping[str, Any] | None, advice: str = "") -> bool:
        """Show an error, unless one of its kind was shown; return whether it is shown. Default advice: the command."""
        if error is None or error["code"] in self._warned:
            return False
        self._warned.add(error["code"])
        warn(f"warning: {error['message']}. {advice or self._advice}")
        return True

    @property
    def _advice(self) -> str:
        return f"Send what is missing later with: train sync {self._run}"


def main() -> None:
    """Answer requests until the training closes the pipe; then send the rest of the last run."""
    from train.engine.run_folder import RunFolder
    from train.engine.tracking.mlflow_run import connect, sync

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print to stdout
    run: RunFolder | None = None
    for line in sys.stdin:
        request, error, url = json.loads(line), None, None
        try:
            if "experiment" in request:
                connect(request["experiment"])
            else:
                run = RunFolder(Path(request["run"]))
                url = sync(run, verify=request.get("verify", False)).url
        except Exception as failure:  # noqa: BLE001 - the training must get an answer
            message, code = f"{type(failure).__name__}: {failure}", "internal.error"
            if isinstance(failure, TritonkitError):
                message, code = str(failure), failure.code
            error = {"message": message, "code": code, "is_input": isinstance(failure, InputError)}
        if run is None:
            os.nice(_LOW_PRIORITY)  # importing mlflow, before, holds up the training
        answers.write(json.dumps({"error": error, "url": url}) + "\n")
        answers.flush()
    if run is not None:
        signal.alarm(int(_LAST_S))
        sync(run)


if __name__ == "__main__":
    main()
