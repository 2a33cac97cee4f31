"""The command `train quantize`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from train.commands.output import format_metric
from tritonkit.system.console import JsonOption, print_json, print_text, reports_errors, table

if TYPE_CHECKING:
    from train.quantize import QuantizeResult


@reports_errors
def quantize(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint that `train fit` wrote.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Override keys of its configuration.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of training with fake quantization.")] = 4,
    activations: Annotated[
        Literal["uint8", "int8"],
        typer.Option(help="uint8: as in ONNX Runtime and OpenVINO; int8: symmetric, as in TensorRT."),
    ] = "uint8",
    data: Annotated[
        str | None, typer.Option(metavar="PATH", help="Labelled images; default: the splits of the run.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a checkpoint further with weights and activations rounded to int8, so that int8 loses less.

    It is a new run with the configuration of the old one and a tenth of its learning rate. Its checkpoint is exported
    like any other. The last line on stdout is its path.

    Examples:

        train quantize runs/digits/1/best.safetensors

        train quantize runs/digits/1/best.safetensors --epochs 5 optimizer.lr=0.0001

        train quantize runs/digits/1/best.safetensors --activations int8 batch_size=64 --json
    """
    from train.distributed.processes import Processes

    Processes.check_alone("train quantize")
    from train.quantize import quantize as run_quantize

    result = run_quantize(checkpoint, data, epochs, activations, overrides or ())
    if as_json:
        print_json(result)
    else:
        _print(result)


def _print(result: QuantizeResult) -> None:
    columns = (result.before.fp32, result.before.int8, result.after.fp32, result.after.int8)
    rows = [(name, *(format_metric(column.get(name)) for column in columns)) for name in result.after.fp32]
    print_text(f"{result.measured_on}; int8 is simulated, and `builder export` verifies the real one")
    table(("metric", "before, fp32", "before, int8", "after, fp32", "after, int8"), rows)
    print_text(str(result.checkpoint))
