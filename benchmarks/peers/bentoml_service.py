"""BentoML in its fastest arrangement here: one service, eight threads, one picture a request.

Its adaptive batching was tried too. With pictures as parts of a form it was as fast at 1 and 8 connections and slower
at 32; as a second service, which takes arrays, it was half as fast and refused requests at 32 connections.
"""

from pathlib import Path
from typing import Annotated, Any

import bentoml

from benchmarks.peers.picture_classifier import Classifier, decode

Jpeg = Annotated[Path, bentoml.validators.ContentType("image/jpeg")]


@bentoml.service(threads=8)
class Pictures:
    """The HTTP endpoint."""

    def __init__(self) -> None:
        self.classifier = Classifier()

    @bentoml.api(route="/classify")
    def classify(self, picture: Jpeg, /) -> dict[str, Any]:
        """Classify the picture in the body, which BentoML writes to a temporary file."""
        return self.classifier.classify(decode(picture.read_bytes())[None])[0]
