"""tritonclient.http, with gevent: what each of its calls gives, as JSON.

Usage: triton_http.py HOST:PORT MODEL PIXELS.npy FILE...
"""

import json
import sys
from pathlib import Path

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

address, model, file, *pictures = sys.argv[1:]
pixels = np.load(file)
files = np.array([Path(one).read_bytes() for one in pictures], dtype=np.object_)
client = triton.InferenceServerClient(address, concurrency=8)
metadata = client.get_model_metadata(model)
(input_name,) = (tensor["name"] for tensor in metadata["inputs"])
output_names = [tensor["name"] for tensor in metadata["outputs"]]


def tensor(images=pixels, *, binary=True, name=input_name, datatype="UINT8"):
    made = triton.InferInput(name, list(images.shape), datatype)
    made.set_data_from_numpy(images, binary_data=binary)
    return made


def wanted(*names, **options):
    return [triton.InferRequestedOutput(name, **options) for name in names]


def arrays(result):
    names = [output["name"] for output in result.get_response()["outputs"]]
    return {name: result.as_numpy(name).tolist() for name in names}


def texts(array):
    """BYTES come as bytes where they were binary, else as str."""
    return [[one.decode() if isinstance(one, bytes) else one for one in row] for row in array]


def infer(**options):
    options.setdefault("inputs", [tensor()])
    return arrays(client.infer(model, **options))


def failure(call):
    try:
        call()
    except InferenceServerException as error:
        return {"status": error.status(), "message": error.message()}
    return None


first, *others = output_names
ways = {
    "default": infer(),
    "JSON in": infer(inputs=[tensor(binary=False)]),
    "JSON out": infer(outputs=wanted(*output_names, binary_data=False)),
    "JSON both ways": infer(
        inputs=[tensor(binary=False)], outputs=wanted(*output_names, binary_data=False)
    ),
    "binary out": infer(outputs=wanted(*output_names, binary_data=True)),
    "one binary, one JSON": infer(
        outputs=wanted(first, binary_data=True) + wanted(*others, binary_data=False)
    ),
    "gzip": infer(request_compression_algorithm="gzip", response_compression_algorithm="gzip"),
    "deflate": infer(
        request_compression_algorithm="deflate", response_compression_algorithm="deflate"
    ),
    "gzip, JSON both ways": infer(
        inputs=[tensor(binary=False)],
        outputs=wanted(*output_names, binary_data=False),
        request_compression_algorithm="gzip",
        response_compression_algorithm="gzip",
    ),
    "version": infer(model_version=metadata["versions"][-1]),
    "timeout": infer(timeout=20_000_000),
    "parameters": infer(parameters={"note": "hello", "number": 3}),
    "priority and sequence": infer(
        priority=1, sequence_id=7, sequence_start=True, sequence_end=True
    ),
}

before = client.get_inference_statistics(model)["model_stats"][-1]
pending = [client.async_infer(model, [tensor(pixels[:1])], request_id=str(i)) for i in range(20)]
results = [one.get_result() for one in pending]
after = client.get_inference_statistics(model)["model_stats"][-1]

body, header_length = client.generate_request_body([tensor()], outputs=wanted(first))
answers = {
    "live": client.is_server_live(),
    "ready": client.is_server_ready(),
    "model_ready": client.is_model_ready(model),
    "version_ready": client.is_model_ready(model, metadata["versions"][0]),
    "unknown_ready": client.is_model_ready("unheard-of"),
    "server": client.get_server_metadata(),
    "metadata": metadata,
    "version_metadata": client.get_model_metadata(model, metadata["versions"][0]),
    "config": client.get_model_config(model),
    "index": client.get_model_repository_index(),
    "ways": ways,
    "files": infer(inputs=[tensor(files, datatype="BYTES")]),
    "some_outputs": infer(outputs=wanted(others[-1])),
    "classes": {
        "binary": texts(infer(outputs=wanted(first, class_count=2))[first]),
        "JSON": texts(infer(outputs=wanted(first, class_count=2, binary_data=False))[first]),
        "all": texts(infer(outputs=wanted(first, class_count=1000))[first]),
    },
    "id": client.infer(model, [tensor()], request_id="a/ä 1").get_response()["id"],
    "no_id": "id" in client.infer(model, [tensor()]).get_response(),
    "async": [arrays(result)[first][0] for result in results],
    "async_ids": [result.get_response()["id"] for result in results],
    "statistics": {
        "all": len(client.get_inference_statistics()["model_stats"]),
        "images": after["inference_count"] - before["inference_count"],
        "runs": after["execution_count"] - before["execution_count"],
        "success": after["inference_stats"]["success"]["count"]
        - before["inference_stats"]["success"]["count"],
        "keys": sorted(after),
    },
    "request_body": [len(body), header_length],
    "errors": {
        "unknown model": failure(lambda: client.infer("unheard-of", [tensor()])),
        "unknown version": failure(lambda: client.infer(model, [tensor()], model_version="99")),
        "unknown metadata": failure(lambda: client.get_model_metadata("unheard-of")),
        "unknown statistics": failure(lambda: client.get_inference_statistics("unheard-of")),
        "unknown input": failure(lambda: infer(inputs=[tensor(name="nope")])),
        "unknown output": failure(lambda: infer(outputs=wanted("nope"))),
        "two inputs": failure(lambda: infer(inputs=[tensor(), tensor()])),
        "shape": failure(lambda: infer(inputs=[tensor(pixels[..., :2].copy())])),
        "rank": failure(lambda: infer(inputs=[tensor(pixels[0])])),
        "empty": failure(lambda: infer(inputs=[tensor(pixels[:0])])),
        "datatype": failure(
            lambda: infer(inputs=[tensor(pixels.astype(np.float32), datatype="FP32")])
        ),
        "shared memory": failure(
            lambda: client.register_system_shared_memory("region", "/region", 64)
        ),
        "load a file": failure(
            lambda: client.load_model(
                model, config="{}", files={"file:1/model.onnx": b"not allowed"}
            )
        ),
        "trace": failure(client.get_trace_settings),
        "log": failure(client.get_log_settings),
    },
}
client.close()
json.dump(answers, sys.stdout)
