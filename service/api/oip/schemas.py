"""Wire models of ``/v2``, with examples: they describe the protocol, and write its small answers.

Source: Open Inference Protocol v2, REST, and Triton's extensions of it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from service.api.schemas import PIXEL_PNG

_DATATYPE = Field(examples=["FP32"])
_SHAPE = Field(description="-1: any number", examples=[[-1, 10]])


class ProtocolError(BaseModel):
    """Every error under ``/v2``."""

    error: str = Field(examples=["No model is named 'dogs'. There are: cifar10, mnist."])


class ServerMetadata(BaseModel):
    """What answers, and which extensions of the protocol it has."""

    name: str = Field(examples=["adaresnet"])
    version: str = Field(examples=["0.1.0"])
    extensions: list[str] = Field(examples=[["binary_tensor_data", "classification"]])


class Live(BaseModel):
    """The process is alive."""

    live: bool = Field(examples=[True])


class Ready(BaseModel):
    """The service, or a model, can answer."""

    name: str | None = Field(default=None, examples=["cifar10"])
    ready: bool = Field(examples=[True])


class ModelNames(BaseModel):
    """Every model that can answer."""

    models: list[str] = Field(examples=[["cifar10", "mnist"]])


class TensorMetadata(BaseModel):
    """An input or output; the first dimension is the batch."""

    name: str = Field(examples=["logits"])
    datatype: str = _DATATYPE
    shape: list[int] = _SHAPE


class ModelMetadata(BaseModel):
    """A model's tensors, and the versions of it that can answer."""

    name: str = Field(examples=["cifar10"])
    versions: list[str] = Field(examples=[["1"]])
    platform: str = Field(examples=["onnxruntime_onnx"])
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ConfigTensor(BaseModel):
    """An input or output, of one image."""

    name: str = Field(examples=["images"])
    data_type: str = Field(examples=["TYPE_UINT8"])
    dims: list[int] = Field(examples=[[32, 32, 3]])
    label_filename: str | None = None
    format: str | None = Field(default=None, examples=["FORMAT_NHWC"])


class DynamicBatching(BaseModel):
    """How images are gathered."""

    preferred_batch_size: list[int] = Field(examples=[[4, 16]])
    max_queue_delay_microseconds: int = Field(examples=[0])


class InstanceGroup(BaseModel):
    """Where a model runs, and how often at once."""

    kind: Literal["KIND_CPU", "KIND_GPU"]
    count: int = Field(examples=[2])


class ModelConfiguration(BaseModel):
    """A model's configuration in Triton's words."""

    name: str = Field(examples=["cifar10"])
    platform: str = Field(examples=["onnxruntime_onnx"])
    backend: str = Field(examples=["onnxruntime"])
    max_batch_size: int = Field(description="images of one request", examples=[21845])
    input: list[ConfigTensor]
    output: list[ConfigTensor]
    dynamic_batching: DynamicBatching
    instance_group: list[InstanceGroup]


class InferOutput(BaseModel):
    """An output of a reply; ``data``, or bytes behind the JSON."""

    name: str = Field(examples=["probabilities"])
    datatype: str = _DATATYPE
    shape: list[int] = Field(examples=[[1, 10]])
    parameters: dict[str, int] | None = Field(
        default=None, description="binary_data_size, where the data is behind the JSON"
    )
    data: list[float | str | None] | None = Field(
        default=None, description="flat, row by row; null: not a number", examples=[[0.93, 0.07]]
    )


class InferReply(BaseModel):
    """The reply to an inference."""

    model_name: str = Field(examples=["cifar10"])
    model_version: str = Field(examples=["1"])
    id: str | None = Field(default=None, description="as in the request", examples=["a1"])
    outputs: list[InferOutput]


class IndexRow(BaseModel):
    """One version of a model in the repository."""

    name: str = Field(examples=["cifar10"])
    version: str = Field(examples=["1"])
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str = Field(description="why it is not ready, or can't be replaced", examples=[""])


class StatisticDuration(BaseModel):
    """How often something was done, and how long all of it took."""

    count: int = Field(examples=[3])
    ns: int = Field(description="nanoseconds", examples=[900_000])


class InferenceStatistics(BaseModel):
    """Of requests (success, fail), batches (queue, compute_infer) and bodies."""

    success: StatisticDuration
    fail: StatisticDuration
    queue: StatisticDuration
    compute_input: StatisticDuration
    compute_infer: StatisticDuration
    compute_output: StatisticDuration
    cache_hit: StatisticDuration
    cache_miss: StatisticDuration


class BatchStatistics(BaseModel):
    """Of batches with so many images."""

    batch_size: int = Field(examples=[4])
    compute_input: StatisticDuration
    compute_infer: StatisticDuration
    compute_output: StatisticDuration


class ModelStatistics(BaseModel):
    """Of one version, since the service was started."""

    name: str = Field(examples=["cifar10"])
    version: str = Field(examples=["1"])
    last_inference: int = Field(
        description="milliseconds since 1970; 0: never", examples=[1_700_000_000_000]
    )
    inference_count: int = Field(description="images answered", examples=[12])
    execution_count: int = Field(description="batches run", examples=[3])
    inference_stats: InferenceStatistics
    batch_stats: list[BatchStatistics]


class AllStatistics(BaseModel):
    """Statistics of the versions that are served."""

    model_stats: list[ModelStatistics]


_TENSOR: dict[str, Any] = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string", "examples": ["images"]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"enum": ["UINT8", "BYTES"]},
        "parameters": {
            "type": "object",
            "properties": {"binary_data_size": {"type": "integer", "minimum": 0}},
        },
        "data": {
            "type": "array",
            "items": {},
            "description": "UINT8: numbers from 0 to 255, flat or nested; BYTES: base64 of an image"
            " file each",
        },
    },
}
_WANTED: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"enum": ["logits", "probabilities"]},
        "parameters": {
            "type": "object",
            "properties": {
                "binary_data": {"type": "boolean"},
                "classification": {"type": "integer", "minimum": 0},
            },
        },
    },
}
INFER_BODY: dict[str, Any] = {
    "required": True,
    "description": "JSON; or, with the header Inference-Header-Content-Length, so many bytes of"
    " JSON and then the bytes of the binary tensors; or, where it is 0, one image's pixels. May be"
    " compressed with gzip or deflate.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["inputs"],
                "properties": {
                    "id": {"type": "string"},
                    "parameters": {
                        "type": "object",
                        "properties": {
                            "binary_data_output": {"type": "boolean"},
                            "timeout": {
                                "type": "integer",
                                "minimum": 0,
                                "description": "microseconds",
                            },
                        },
                    },
                    "inputs": {"type": "array", "items": _TENSOR, "minItems": 1, "maxItems": 1},
                    "outputs": {"type": "array", "items": _WANTED},
                },
            },
            "examples": {
                "image file": {
                    "value": {
                        "inputs": [
                            {
                                "name": "images",
                                "shape": [1],
                                "datatype": "BYTES",
                                "data": [PIXEL_PNG],
                            }
                        ],
                        "outputs": [{"name": "probabilities", "parameters": {"classification": 3}}],
                    }
                },
                "pixels": {
                    "summary": "a model of 1 x 2 pixels",
                    "value": {
                        "id": "a1",
                        "inputs": [
                            {
                                "name": "images",
                                "shape": [1, 1, 2, 3],
                                "datatype": "UINT8",
                                "data": [200, 30, 30, 0, 0, 255],
                            }
                        ],
                    },
                },
            },
        },
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}
INFER_HEADERS: list[dict[str, Any]] = [
    {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "required": False,
        "description": "bytes of JSON before the binary tensors; 0: there is no JSON",
        "schema": {"type": "integer", "minimum": 0},
    },
]
INDEX_BODY: dict[str, Any] = {
    "required": False,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "ready": {"type": "boolean", "description": "only versions that are ready"}
                },
            },
            "examples": {"ready ones": {"value": {"ready": True}}},
        }
    },
}
CONTROL_BODY: dict[str, Any] = {
    "required": False,
    "content": {
        "application/json": {
            "schema": {"type": "object", "properties": {"parameters": {"type": "object"}}},
            "examples": {"nothing": {"value": {}}},
        }
    },
}

_DESCRIPTIONS = {
    400: "Not what the protocol says or the model takes",
    403: "Management is not allowed",
    404: "No such model or version",
    413: "Body too large, inflated or not, or too many images",
    415: "Content encoding that is not read",
    500: "A fault of the service",
    503: "Overloaded or not ready; see Retry-After",
    504: "No answer within the deadline",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How a route describes its errors."""
    return {
        status: {"model": ProtocolError, "description": _DESCRIPTIONS[status]}
        for status in statuses
    }
