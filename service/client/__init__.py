"""A Python client of the service; needs httpx and nothing else of this project."""

from service.client.async_client import AsyncClient
from service.client.client import Client
from service.client.errors import (
    AnswerError,
    ClientError,
    ConnectionFailedError,
    ImageError,
    OverloadedError,
    RequestRefusedError,
    ServerFaultError,
    TimedOutError,
    UnexpectedAnswerError,
)
from service.client.images import ImageLike
from service.client.results import (
    Accuracy,
    InputInfo,
    ModelInfo,
    Prediction,
    Result,
    VersionInfo,
)

__all__ = [
    "Accuracy",
    "AnswerError",
    "AsyncClient",
    "Client",
    "ClientError",
    "ConnectionFailedError",
    "ImageError",
    "ImageLike",
    "InputInfo",
    "ModelInfo",
    "OverloadedError",
    "Prediction",
    "RequestRefusedError",
    "Result",
    "ServerFaultError",
    "TimedOutError",
    "UnexpectedAnswerError",
    "VersionInfo",
]
