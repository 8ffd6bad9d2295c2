"""MLServer's types and codecs: a request of theirs, and the reply read by them, as JSON.

Usage: mlserver_types.py URL MODEL PIXELS.npy
"""

import json
import sys

import httpx
import numpy as np
from mlserver import types
from mlserver.codecs import NumpyCodec, NumpyRequestCodec, StringCodec

url, model, file = sys.argv[1:]
pixels = np.load(file)
client = httpx.Client(base_url=url, timeout=60)
server = client.get("/v2").raise_for_status()
described = client.get(f"/v2/models/{model}").raise_for_status()
metadata = types.MetadataModelResponse.model_validate_json(described.text)
name = metadata.inputs[0].name


def infer(request):
    body = request.model_dump(exclude_none=True)
    answer = client.post(f"/v2/models/{model}/infer", json=body).raise_for_status()
    return types.InferenceResponse.model_validate_json(answer.text)


def arrays(response):
    return {output.name: NumpyCodec.decode_output(output).tolist() for output in response.outputs}


encoded = NumpyCodec.encode_input(name, pixels)
by_request_codec = NumpyRequestCodec.encode_request(pixels)
by_request_codec.inputs[0].name = name
classes = infer(
    types.InferenceRequest(
        inputs=[encoded],
        outputs=[
            types.RequestOutput(
                name=metadata.outputs[0].name, parameters=types.Parameters(classification=2)
            )
        ],
    )
)
error = client.post(f"/v2/models/{model}/infer", json={"inputs": []})
with_id = infer(types.InferenceRequest(id="mine", inputs=[encoded]))
json.dump(
    {
        "server": types.MetadataServerResponse.model_validate_json(server.text).model_dump(),
        "metadata": metadata.model_dump(),
        "id": with_id.id,
        "name_and_version": [with_id.model_name, with_id.model_version],
        "ways": {
            "input codec": arrays(infer(types.InferenceRequest(inputs=[encoded]))),
            "request codec": arrays(infer(by_request_codec)),
        },
        "classes": [StringCodec.decode_output(output) for output in classes.outputs],
        "error": types.InferenceErrorResponse.model_validate_json(error.text).error,
    },
    sys.stdout,
)
