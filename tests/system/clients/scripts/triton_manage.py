"""tritonclient.http unloads and loads a model, with a key: what each call gives, as JSON.

Usage: triton_manage.py HOST:PORT MODEL KEY
"""

import json
import sys

import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

address, model, key = sys.argv[1:]
client = triton.InferenceServerClient(address)
authorized = {"Authorization": f"Bearer {key}"}


def state():
    index = client.get_model_repository_index(headers=authorized)
    return {
        "ready": client.is_model_ready(model, headers=authorized),
        "index": [[row["name"], row["state"]] for row in index],
    }


def failure(call):
    try:
        call()
    except InferenceServerException as error:
        return error.status()
    return None


answers = {"before": state(), "without a key": failure(lambda: client.unload_model(model))}
client.unload_model(model, headers=authorized)
answers["unloaded"] = state()
client.load_model(model, headers=authorized)
answers["loaded"] = state()
answers["with a file"] = failure(
    lambda: client.load_model(
        model, headers=authorized, config="{}", files={"file:1/model.onnx": b"not allowed"}
    )
)
answers["unknown"] = failure(lambda: client.load_model("unheard-of", headers=authorized))
client.close()
json.dump(answers, sys.stdout)
