"""MLServer with a custom runtime and its adaptive batching, in one process."""

import asyncio
import json
import sys

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings, types
from mlserver.codecs import StringCodec
from mlserver.context import model_context
from mlserver.handlers import custom_handler
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.peers.picture_classifier import Classifier, decode


class PictureRuntime(MLModel):
    """Decodes and classifies the pictures of a batch in a thread."""

    async def load(self) -> bool:
        self.classifier = Classifier()
        return True

    @custom_handler(rest_path="/classify")
    async def classify(self, request: Request) -> Response:
        data = [await request.body()]
        picture = types.RequestInput(name="picture", datatype="BYTES", shape=[1, 1], data=data)
        with model_context(self.settings):  # as for requests of the V2 protocol: batching needs it
            answer = await self.predict(types.InferenceRequest(inputs=[picture]))
        return Response(StringCodec.decode_output(answer.outputs[0])[0], media_type="application/json")

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        answers = await run_in_threadpool(self.classify_all, payload.inputs[0].data.root)
        return types.InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("answer", answers)])

    def classify_all(self, pictures: list[bytes]) -> list[str]:
        images = np.stack([decode(picture) for picture in pictures])
        return [json.dumps(answer) for answer in self.classifier.classify(images)]


if __name__ == "__main__":
    settings = Settings(
        host="127.0.0.1",
        http_port=int(sys.argv[1]),
        grpc_port=0,
        metrics_endpoint=None,
        parallel_workers=0,
        debug=False,
    )
    model = ModelSettings(name="picture", implementation=PictureRuntime, max_batch_size=8, max_batch_time=0.002)
    asyncio.run(MLServer(settings).start([model]))
