"""MLServer: a custom runtime over the V2 protocol in JSON, with adaptive batching.

Each of its parallel workers, one a core, has one thread.
"""

from __future__ import annotations

import numpy as np
from classifier import Classifier
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Classify(MLModel):
    """Input ``pictures`` (BYTES, base64) or ``pixels`` (UINT8 [N, H, W, 3])."""

    async def load(self) -> bool:
        """Load the model."""
        self.classifier = Classifier(threads=1)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """First class of each image."""
        given = payload.inputs[0]
        if given.name == "pictures":
            images = self.classifier.decode_all(Base64Codec.decode_input(given))
        else:
            images = NumpyCodec.decode_input(given)
        classes, probabilities = self.classifier.run(images)
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                NumpyCodec.encode_output("class", classes.astype(np.int32)[:, None]),
                NumpyCodec.encode_output("probability", probabilities[:, None]),
            ],
        )
