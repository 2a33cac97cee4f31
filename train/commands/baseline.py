"""The command `train baseline`."""

from __future__ import annotations

from typing import Annotated

import typer

from train.commands.output import print_fit_result
from tritonkit.system.console import JsonOption, reports_errors


@reports_errors
def baseline(
    config: Annotated[str, typer.Argument(metavar="CONFIG.yaml", help="A configuration, as for train fit.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Override keys of the configuration for this run."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit logistic regression on the features of a frozen backbone: a first figure in seconds.

    The run folder and the checkpoint are those of `train fit`. The last line on stdout is the checkpoint's path.

    Examples:

        train baseline flowers.yaml model.pretrained=true

        train baseline flowers.yaml model.name=vit_small_patch16_224 model.weights=vit.safetensors
    """
    from train.distributed.processes import Processes

    Processes.check_alone("train baseline")
    from train.config.loading import load_config
    from tritonkit.remotes import local_path

    resolved = load_config(local_path(config), overrides or [])
    from train.baseline.run import baseline as fit_baseline

    print_fit_result(fit_baseline(resolved), as_json, measured="baseline")
