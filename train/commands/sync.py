"""The command `train sync`."""

from __future__ import annotations

from typing import Annotated

import typer

from train.commands.run_argument import run_path
from tritonkit.system.console import JsonOption, print_json, print_text, reports_errors, track_progress

_TIMEOUTS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "AWS_MAX_ATTEMPTS": "3"}
_QUIET = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}


@reports_errors
def sync(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run, or a checkpoint in it.")],
    as_json: JsonOption = False,
) -> None:
    """Send to MLflow what it does not have of a run: parameters, metrics, images, the best checkpoint, the verdict.

    The server and its credentials come from the environment or from `.env`: MLFLOW_TRACKING_URI,
    MLFLOW_S3_ENDPOINT_URL, AWS_ACCESS_KEY_ID, and so on. What was sent is recorded in mlflow.json of the run, so the
    command can be called again at any time.

    Example: train sync runs/digits/1
    """
    from train.engine.run_folder import RunFolder
    from train.engine.tracking.mlflow_run import sync as sync_run
    from train.tracking import check_server_is_set, environment_variables, mlflow_environment
    from tritonkit.system.standard_streams import quiet_loggers

    folder = RunFolder.open(run_path(run))
    environment = mlflow_environment()
    check_server_is_set(environment)
    with environment_variables({**_TIMEOUTS, **environment, **_QUIET}), quiet_loggers("mlflow", "urllib3"):
        result = sync_run(folder, lambda steps: track_progress(steps, f"sending {run}", len(steps)))
    if as_json:
        print_json(result)
        return
    print_text(f"sent {result.sent} parts to experiment {result.experiment}, run {result.run_id}")
    if result.url is not None:
        print_text(result.url)
