"""The server that many write first: FastAPI and ONNX Runtime, one picture a request, no batching."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from benchmarks.peers.picture_classifier import Classifier, decode

app, classifier = FastAPI(), Classifier()


def classify(data: bytes) -> dict[str, Any]:
    """Return the most likely class of a picture."""
    return classifier.classify(decode(data)[None])[0]


@app.post("/classify")
async def classify_body(request: Request) -> dict[str, Any]:
    """Classify the picture in the body, in a thread of Starlette's pool."""
    return await run_in_threadpool(classify, await request.body())


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
