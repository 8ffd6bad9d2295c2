"""Wire models: what ``/v1`` takes and gives, with examples for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.metadata import Accuracy, ShortcutScale

DEFAULT_TOP_K = 5
MAX_TOP_K = 1_000_000  # only keeps the number an int of sane size; more than C gives C classes


class ClassifyQuery(BaseModel):
    """Query parameters of ``POST /v1/classify``."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(
        default=None, description="model name; default: the configured or the first one"
    )
    version: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="model version; default: the highest that is ready"
    )
    top_k: int = Field(
        default=DEFAULT_TOP_K,
        ge=1,
        le=MAX_TOP_K,
        description="classes an image, most probable first; at most all that the model has",
    )
    on_error: Literal["fail", "skip"] = Field(
        default="fail",
        description="with bad images: refuse the request, or answer the others; an answer of lines"
        " always does that",
    )


class ImagesBody(BaseModel):
    """JSON body of ``POST /v1/classify``."""

    model_config = ConfigDict(extra="forbid")

    images: list[str] = Field(description="base64, or a data URL, of an encoded image each")


class ImageProblem(BaseModel):
    """What is wrong with one image."""

    index: int | None = Field(
        default=None, description="place in the request, from 0", examples=[1]
    )
    code: str = Field(examples=["image_undecodable"])
    detail: str
    hint: str


class ClassPrediction(BaseModel):
    """One class of one image."""

    class_id: int = Field(examples=[3])
    label: str = Field(examples=["cat"])
    probability: float = Field(examples=[0.93])


class ImageResult(BaseModel):
    """The answer for one image: its classes, or with on_error=skip its error."""

    predictions: list[ClassPrediction] | None = None
    error: ImageProblem | None = None


class ClassifyResponse(BaseModel):
    """One result an image, in the order of the request."""

    model: str = Field(examples=["cifar10"])
    version: int = Field(examples=[1])
    results: list[ImageResult]


class ResultLine(BaseModel):
    """One line of a streamed answer: an image's classes or its error.

    An error without an index is the last line of an answer that could not be finished.
    """

    index: int | None = Field(default=None, description="place in the request, from 0")
    predictions: list[ClassPrediction] | None = None
    error: ImageProblem | None = None


class Problem(BaseModel):
    """An error, as RFC 9457 has it (``application/problem+json``)."""

    type: str = Field(examples=["/problems/model_not_found"])
    title: str = Field(examples=["Model not found"])
    status: int = Field(examples=[404])
    code: str = Field(description="stable; branch on this", examples=["model_not_found"])
    detail: str = Field(examples=["No model is named 'dogs'."])
    hint: str = Field(examples=["There are: cifar10, mnist."])
    request_id: str = Field(examples=["9f2c61d05b3e4a17"])
    errors: list[ImageProblem] | None = Field(default=None, description="with invalid images")


class InputInfo(BaseModel):
    """What a model takes once images are decoded."""

    height: int = Field(description="pixels", examples=[32])
    width: int = Field(description="pixels", examples=[32])
    datatype: str = Field(examples=["uint8"])
    layout: str = Field(examples=["NHWC"])
    resize: str = Field(
        description="how other sizes are brought to it", examples=["center_crop, bilinear"]
    )


class VersionInfo(BaseModel):
    """One version of a model."""

    version: int
    ready: bool
    digest: str | None = Field(default=None, description="SHA-256 of the file that answers")
    config_digest: str | None = Field(
        default=None, description="SHA-256 of the config.toml and label file that go with it"
    )
    golden_difference: float | None = Field(
        default=None,
        description="largest logit difference to PyTorch on the golden images, on this device",
    )
    error: str | None = Field(
        default=None, description="why the file on disk can't be served, and what helps"
    )


class ServingInfo(BaseModel):
    """How a version runs here, as it was measured when it was loaded."""

    devices: list[str] = Field(description="of its instances", examples=[["cuda:0", "cuda:1"]])
    instances: int = Field(description="runs at once", examples=[4])
    threads: int = Field(description="CPU threads of a run", examples=[1])
    batch_size: int = Field(description="images of a run of a large request", examples=[64])
    small_batch_size: int = Field(description="images of any other run at most", examples=[8])
    single_image_threads: Literal["all", "one"] = Field(
        description="who runs an image that is alone: all threads together, or those of one run"
    )
    images_per_s: float = Field(
        description="of one instance alone, without decoding", examples=[1500.0]
    )


class ModelInfo(BaseModel):
    """A model and the version of it that answers by default."""

    name: str = Field(examples=["cifar10"])
    ready: bool
    default_version: int | None = Field(examples=[1])
    versions: list[VersionInfo]
    description: str | None = None
    classes: list[str] | None = Field(default=None, examples=[["airplane", "automobile"]])
    input: InputInfo | None = None
    accuracy: Accuracy | None = None
    shortcut_scales: list[ShortcutScale] | None = Field(
        default=None, description="learned skip weights, before they were folded away"
    )
    execution_provider: str | None = Field(
        default=None,
        description="what really runs, not what was configured",
        examples=["CUDAExecutionProvider"],
    )
    serving: ServingInfo | None = None


class ModelList(BaseModel):
    """Every model in the repository."""

    models: list[ModelInfo]


class Health(BaseModel):
    """Answer of the health routes."""

    status: str = Field(examples=["ok"])


PIXEL_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"
)

# A whole picture in plain text (PPM), so that even the examples of binary bodies can be sent.
_PIXEL_PPM = "P3 1 1 255 200 30 30\n"

_ONE_IMAGE: dict[str, Any] = {
    "schema": {"type": "string", "format": "binary"},
    "examples": {
        "one image": {
            "summary": "curl --data-binary @cat.png localhost:8000/v1/classify",
            "value": _PIXEL_PPM,
        }
    },
}

LINES_CONTENT: dict[str, Any] = {
    "application/x-ndjson": {
        "schema": {"type": "string", "description": "lines, each a ResultLine"},
        "examples": {
            "two images": {
                "summary": "curl -H 'Accept: application/x-ndjson' -F images=@cat.png ...",
                "value": '{"index":0,"predictions":[{"class_id":3,"label":"cat",'
                '"probability":0.93}]}\n{"index":1,"error":{"index":1,'
                '"code":"image_undecodable","detail":"...","hint":"..."}}\n',
            }
        },
    }
}

CLASSIFY_BODY: dict[str, Any] = {
    "required": True,
    "description": "One image as it is, several as multipart, JSON or lines, or pixels as .npy.",
    "content": {
        "image/*": _ONE_IMAGE,
        "application/octet-stream": _ONE_IMAGE,
        "multipart/form-data": {
            "examples": {
                "two files": {
                    "summary": "curl -F images=@cat.png -F images=@dog.png ...",
                    "value": {"images": [_PIXEL_PPM, _PIXEL_PPM]},
                }
            },
            "schema": {
                "type": "object",
                "properties": {
                    "images": {
                        "type": "array",
                        "items": {"type": "string", "format": "binary"},
                        "description": "files; the field's name does not matter",
                    }
                },
            },
        },
        "application/json": {
            "schema": ImagesBody.model_json_schema(),
            "examples": {
                "base64": {"value": {"images": [PIXEL_PNG]}},
                "data URL": {"value": {"images": [f"data:image/png;base64,{PIXEL_PNG}"]}},
            },
        },
        "application/x-ndjson": {
            "schema": {
                "type": "string",
                "description": 'a line an image: "<base64>", {"image": "<base64>"} or'
                ' {"b64": "<base64>"}',
            },
        },
        "application/x-npy": {
            "schema": {
                "type": "string",
                "format": "binary",
                "description": "what numpy.save writes for uint8 [N, H, W, 3], [H, W, 3] or grey"
                " [N, H, W]",
            },
        },
    },
}
