"""Ask a server in forked processes, and print the answers as JSON: `forked_client GRPC HTTP MODEL PICTURE`."""

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


def send_answer(pipe: Pipe, ask: Callable[[], Any]) -> None:
    try:
        answer = ask().fields["label"]
    except Exception as error:  # noqa: BLE001 - whatever it is, it is printed
        answer = f"{type(error).__name__}: {getattr(error, 'code', '')}: {error}"
    pipe.send(answer)


def answer_in_fork(ask: Callable[[], Any]) -> str:
    read_end, write_end = FORK.Pipe()
    child = FORK.Process(target=send_answer, args=(write_end, ask))
    child.start()
    answer = read_end.recv() if read_end.poll(LONGEST_S) else "still waiting"
    child.kill()
    child.join()
    return str(answer)


def main(grpc: str, http: str, model: str, picture: str) -> None:
    def ask_with_new_client(url: str) -> Any:
        with Client(model, url) as client:
            return client.infer(picture)

    answers = {}
    with Client(model, http) as client:
        client.infer(picture)
        answers["same http"] = answer_in_fork(lambda: client.infer(picture))
        answers["new http"] = answer_in_fork(lambda: ask_with_new_client(http))
    with Client(model, grpc) as client:
        client.infer(picture)
        asyncio.run(client.infer_async(picture))
        answers["same grpc"] = answer_in_fork(lambda: client.infer(picture))
        answers["awaited"] = answer_in_fork(lambda: asyncio.run(client.infer_async(picture)))
        answers["stream"] = answer_in_fork(lambda: next(client.stream([picture])))
        answers["new grpc"] = answer_in_fork(lambda: ask_with_new_client(grpc))
        answers["parent"] = client.infer(picture).fields["label"]
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
