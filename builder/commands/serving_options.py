"""Options that say how a model is to be served; `builder.config.serving.serving_from` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path | None, typer.Option(help="A config.pbtxt of yours: what it says of serving is taken over.")]
Instances = Annotated[int | None, typer.Option(help="Instances of the model; on GPUs, of each GPU.")]
Kind = Annotated[str | None, typer.Option(help="Where instances run: auto, cpu or gpu.")]
Gpus = Annotated[str | None, typer.Option(help="GPUs to run on, such as 0,1; default: all.")]
DynamicBatching = Annotated[
    bool | None,
    typer.Option("--dynamic-batching/--no-dynamic-batching", help="Batch requests; default: as before, or on."),
]
QueueDelay = Annotated[int | None, typer.Option("--queue-delay-us", help="How long a request may wait for a batch.")]
PreferredBatch = Annotated[
    str | None, typer.Option(help="Batch sizes to run at once, such as 4,8; Triton advises against it for most models.")
]
QueueTimeout = Annotated[
    float | None, typer.Option("--queue-timeout-ms", help="How long a request may wait at all; 0 for no limit.")
]
QueueTimeoutAction = Annotated[
    str | None, typer.Option(help="What becomes of one that waited too long: reject or delay.")
]
QueueTimeoutOverride = Annotated[
    bool | None,
    typer.Option(
        "--queue-timeout-override/--no-queue-timeout-override", help="A request may ask for a shorter timeout."
    ),
]
QueueSize = Annotated[
    int | None, typer.Option(help="Requests that may wait; more are refused at once; 0 for no limit.")
]
CudaGraphsOption = Annotated[
    str | None,
    typer.Option("--cuda-graphs", help="Plans: capture CUDA graphs: on, off, or batch sizes such as 1,8,32."),
]
Warmup = Annotated[
    bool | None,
    typer.Option("--warmup/--no-warmup", help="Run golden images before saying ready; default: as before, or off."),
]
Versions = Annotated[
    str | None, typer.Option("--versions", help="Versions Triton loads: latest:N, all, or numbers such as 3,5.")
]
ResponseCache = Annotated[
    bool | None,
    typer.Option("--response-cache/--no-response-cache", help="Keep answers, where the server has a cache."),
]
AcceleratorOption = Annotated[
    list[str] | None,
    typer.Option("--accelerator", help="ONNX: tensorrt, cuda or openvino, NAME:key=value,…; `none` removes them."),
]
