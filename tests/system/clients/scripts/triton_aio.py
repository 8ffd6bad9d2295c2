"""tritonclient.http.aio, with aiohttp: what each of its calls gives, as JSON.

Usage: triton_aio.py HOST:PORT MODEL PIXELS.npy
"""

import asyncio
import json
import sys

import numpy as np
import tritonclient.http.aio as triton
from tritonclient.utils import InferenceServerException

address, model, file = sys.argv[1:]
pixels = np.load(file)


async def main():
    async with triton.InferenceServerClient(address) as client:
        metadata = await client.get_model_metadata(model)
        input_name = metadata["inputs"][0]["name"]
        first, *_ = output_names = [tensor["name"] for tensor in metadata["outputs"]]

        def tensor(images=pixels, *, binary=True):
            made = triton.InferInput(input_name, list(images.shape), "UINT8")
            made.set_data_from_numpy(images, binary_data=binary)
            return made

        async def infer(images=pixels, *, binary=True, **options):
            result = await client.infer(model, [tensor(images, binary=binary)], **options)
            names = [output["name"] for output in result.get_response()["outputs"]]
            return {name: result.as_numpy(name).tolist() for name in names}

        in_json = [triton.InferRequestedOutput(name, binary_data=False) for name in output_names]
        try:
            await client.infer("unheard-of", [tensor()])
            error = None
        except InferenceServerException as refused:
            error = {"status": refused.status(), "message": refused.message()}
        json.dump(
            {
                "live": await client.is_server_live(),
                "ready": await client.is_server_ready(),
                "model_ready": await client.is_model_ready(model),
                "unknown_ready": await client.is_model_ready("unheard-of"),
                "server": await client.get_server_metadata(),
                "metadata": metadata,
                "config": await client.get_model_config(model),
                "index": await client.get_model_repository_index(),
                "statistics": await client.get_inference_statistics(model),
                "ways": {
                    "default": await infer(),
                    "JSON both ways": await infer(binary=False, outputs=in_json),
                    "gzip": await infer(
                        request_compression_algorithm="gzip",
                        response_compression_algorithm="gzip",
                    ),
                    "deflate, JSON": await infer(
                        binary=False,
                        outputs=in_json,
                        request_compression_algorithm="deflate",
                        response_compression_algorithm="deflate",
                    ),
                },
                "at_once": [
                    answer[first][0]
                    for answer in await asyncio.gather(*(infer(pixels[:1]) for _ in range(20)))
                ],
                "error": error,
            },
            sys.stdout,
        )


asyncio.run(main())
