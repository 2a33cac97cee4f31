"""LitServe with its batching: one worker process decodes and runs the model. Two workers were slower on two cores."""

import sys
from typing import Annotated, Any

import litserve
import numpy as np
from fastapi import Body
from numpy.typing import NDArray

from benchmarks.peers.picture_classifier import Classifier, decode


class PictureAPI(litserve.LitAPI):
    """The three steps of a request, in the worker process."""

    def setup(self, device: str) -> None:
        self.classifier = Classifier()

    def decode_request(self, request: Annotated[bytes, Body()]) -> NDArray[np.uint8]:
        return decode(request)

    def predict(self, x: NDArray[np.uint8]) -> list[dict[str, Any]]:
        return self.classifier.classify(x)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    api = PictureAPI(max_batch_size=8, batch_timeout=0.002, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
