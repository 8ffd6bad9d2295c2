"""KServe's InferenceRESTClient, V1 and V2: what each of its calls gives, as JSON.

Usage: kserve_rest.py URL MODEL PIXELS.npy FILE...
"""

import asyncio
import base64
import json
import sys
from pathlib import Path

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

url, model, file, *pictures = sys.argv[1:]
pixels = np.load(file)
encoded = [{"b64": base64.b64encode(Path(one).read_bytes()).decode()} for one in pictures]


async def failure(call):
    try:
        await call
    except httpx.HTTPStatusError as error:
        return {"status": error.response.status_code, "message": str(error)}
    return None


async def v1():
    client = InferenceRESTClient(RESTConfig(protocol="v1"))
    return {
        "live": await client.is_server_live(url),
        "ready": await client.is_model_ready(url, model),
        "pixels": await client.infer(url, {"instances": pixels.tolist()}, model_name=model),
        "files": await client.infer(
            url,
            {"instances": encoded},
            model_name=model,
            headers={"Content-Type": "application/json"},
        ),
        "unknown": await failure(client.infer(url, {"instances": [1]}, model_name="unheard-of")),
        "wrong": await failure(client.infer(url, {"instances": [1]}, model_name=model)),
    }


async def v2():
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    async with httpx.AsyncClient() as plain:
        metadata = (await plain.get(f"{url}/v2/models/{model}")).json()
    name = metadata["inputs"][0]["name"]
    outputs = [tensor["name"] for tensor in metadata["outputs"]]

    async def infer(*, binary, wanted=None):
        tensor = InferInput(name, list(pixels.shape), "UINT8")
        tensor.set_data_from_numpy(pixels, binary_data=binary)
        request = InferRequest(model, [tensor], request_id="7", request_outputs=wanted)
        answer = await client.infer(url, request, model_name=model)
        assert (answer.id, answer.model_name) == ("7", model)
        return {output.name: output.as_numpy().tolist() for output in answer.outputs}

    wrong = InferRequest(model, [InferInput("nope", [1], "UINT8", data=[1])])
    return {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model_ready": await client.is_model_ready(url, model),
        "ways": {
            "JSON": await infer(binary=False),
            "binary in": await infer(binary=True),
            "binary both ways": await infer(
                binary=True, wanted=[RequestedOutput(o, {"binary_data": True}) for o in outputs]
            ),
            "binary out": await infer(
                binary=False, wanted=[RequestedOutput(o, {"binary_data": True}) for o in outputs]
            ),
        },
        "wrong": await failure(client.infer(url, wrong, model_name=model)),
    }


async def main():
    json.dump({"v1": await v1(), "v2": await v2()}, sys.stdout)


asyncio.run(main())
