"""The serving options of `builder export`, read by `builder.config.serving.serving_from`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path | None, typer.Option(help="Your own config.pbtxt, whose serving settings are kept.")]
Instances = Annotated[int | None, typer.Option(help="Number of model instances; on GPUs, per GPU.")]
Kind = Annotated[str | None, typer.Option(help="Where instances run: auto, cpu or gpu.")]
Gpus = Annotated[str | None, typer.Option(help="GPUs to run on, such as 0,1; default: all.")]
DynamicBatching = Annotated[
    bool | None,
    typer.Option("--dynamic-batching/--no-dynamic-batching", help="Batch requests; default: as before, or on."),
]
QueueDelay = Annotated[
    int | None, typer.Option("--queue-delay-us", help="Longest time that a request waits for a batch.")
]
PreferredBatch = Annotated[
    str | None, typer.Option(help="Preferred batch sizes, such as 4,8; Triton advises against it for most models.")
]
QueueTimeout = Annotated[
    float | None,
    typer.Option("--queue-timeout-ms", help="Longest time that a request waits in the queue; 0 for no limit."),
]
QueueTimeoutAction = Annotated[
    str | None, typer.Option(help="What to do with a request after the timeout: reject or delay.")
]
QueueTimeoutOverride = Annotated[
    bool | None,
    typer.Option("--queue-timeout-override/--no-queue-timeout-override", help="A request may set a shorter timeout."),
]
QueueSize = Annotated[
    int | None, typer.Option(help="Largest number of waiting requests; more are refused; 0 for no limit.")
]
CudaGraphsOption = Annotated[
    str | None,
    typer.Option("--cuda-graphs", help="Plans: capture CUDA graphs: on, off, or batch sizes such as 1,8,32."),
]
Warmup = Annotated[
    bool | None,
    typer.Option(
        "--warmup/--no-warmup", help="Run golden images before the model is ready; default: as before, or off."
    ),
]
Versions = Annotated[
    str | None, typer.Option("--versions", help="Versions Triton loads: latest:N, all, or numbers such as 3,5.")
]
ResponseCache = Annotated[
    bool | None,
    typer.Option("--response-cache/--no-response-cache", help="Cache responses, if the server has a cache."),
]
AcceleratorOption = Annotated[
    list[str] | None,
    typer.Option("--accelerator", help="ONNX: tensorrt, cuda or openvino, NAME:key=value,…; `none` removes them."),
]
