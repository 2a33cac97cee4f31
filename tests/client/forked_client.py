"""Asks a server in forked processes, and prints what came of it as JSON: `forked_client GRPC HTTP MODEL PICTURE`."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from typing import Any

from client import Client

LONGEST_S = 60
FORK = multiprocessing.get_context("fork")


def told(pipe: Pipe, ask: Callable[[], Any]) -> None:
    try:
        said = ask().told["label"]
    except Exception as error:  # noqa: BLE001 - whatever it is, it is printed
        said = f"{type(error).__name__}: {error}"
    pipe.send(said)


def in_a_fork(ask: Callable[[], Any]) -> str:
    here, there = FORK.Pipe()
    child = FORK.Process(target=told, args=(there, ask))
    child.start()
    said = here.recv() if here.poll(LONGEST_S) else "still waiting"
    child.kill()
    child.join()
    return str(said)


def main(grpc: str, http: str, model: str, picture: str) -> None:
    def ask_anew(url: str) -> Any:
        with Client(model, url) as client:
            return client.infer(picture)

    found = {}
    with Client(model, http) as client:
        client.infer(picture)
        found["same http"] = in_a_fork(lambda: client.infer(picture))
        found["new http"] = in_a_fork(lambda: ask_anew(http))
    with Client(model, grpc) as client:
        client.infer(picture)
        asyncio.run(client.infer_async(picture))
        found["same grpc"] = in_a_fork(lambda: client.infer(picture))
        found["awaited"] = in_a_fork(lambda: asyncio.run(client.infer_async(picture)))
        found["stream"] = in_a_fork(lambda: next(client.stream([picture])))
        found["new grpc"] = in_a_fork(lambda: ask_anew(grpc))
        found["parent"] = client.infer(picture).fields["label"]
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
