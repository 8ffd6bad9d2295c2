"""Every error that the engine raises on purpose, as one tree.

ServiceError
├── InputError                  the request is wrong; the same request fails again
│   ├── EmptyRequestError       empty_request
│   ├── MalformedRequestError   malformed_request
│   ├── UnsupportedMediaError   unsupported_media_type
│   ├── RequestTooLargeError    request_too_large
│   ├── InvalidParameterError   invalid_parameter
│   ├── InvalidTensorError      invalid_tensor
│   └── ImageError              one image of the request is wrong
│       ├── ImageDecodeError    image_undecodable
│       ├── ImageTooLargeError  image_too_large
│       ├── ImageTooSlowError   image_too_slow
│       └── NotFiniteError      scores_not_finite
├── NotFoundError
│   ├── ModelNotFoundError      model_not_found
│   └── VersionNotFoundError    version_not_found
├── UnavailableError            nothing wrong with the request; try again later
│   ├── ModelNotReadyError      model_not_ready
│   ├── QueueFullError          queue_full
│   ├── StoppingError           stopping
│   └── DeadlineExceededError   deadline_exceeded
├── InferenceError              inference_failed
│   ├── OutOfMemoryError        out_of_memory
│   ├── DeviceLostError         device_lost
│   └── RunTimedOutError        run_timed_out
├── ModelLoadError              model_load_failed
└── DeviceError                 device_unavailable

``InvalidImagesError`` (invalid_images) collects the ``ImageError`` of every bad image of a request.
Nothing here knows HTTP; ``service.api.errors`` maps each class to a status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class ServiceError(Exception):
    """Base of the tree.

    Attributes:
        code: Stable identifier; clients may branch on it.
        title: The kind of error, the same for every occurrence.
        detail: What happened this time, with the value and the limit.
        hint: What would be right.
    """

    code: ClassVar[str] = "service_error"
    title: ClassVar[str] = "Service error"

    def __init__(self, detail: str, *, hint: str) -> None:
        """Say what happened and what would be right."""
        super().__init__(detail)
        self.detail = detail
        self.hint = hint


class InputError(ServiceError):
    """The request itself is wrong; sending it again gives the same answer."""

    code = "invalid_input"
    title = "Invalid input"


class EmptyRequestError(InputError):
    """The request carries no image."""

    code = "empty_request"
    title = "Empty request"


class MalformedRequestError(InputError):
    """The body is not what its content type says."""

    code = "malformed_request"
    title = "Malformed request"


class UnsupportedMediaError(InputError):
    """The content type or content encoding is none that the service reads."""

    code = "unsupported_media_type"
    title = "Unsupported media type"


class RequestTooLargeError(InputError):
    """The body, or the number of images in it, is over a limit."""

    code = "request_too_large"
    title = "Request too large"


class InvalidParameterError(InputError):
    """A query parameter is outside what is allowed."""

    code = "invalid_parameter"
    title = "Invalid parameter"


class InvalidTensorError(InputError):
    """An array has the wrong datatype or shape."""

    code = "invalid_tensor"
    title = "Invalid tensor"


class ImageError(InputError):
    """One image is wrong."""

    code = "image_invalid"
    title = "Invalid image"


class ImageDecodeError(ImageError):
    """The bytes are not an image that can be read."""

    code = "image_undecodable"
    title = "Image can't be decoded"


class ImageTooLargeError(ImageError):
    """The image has more pixels than the limit."""

    code = "image_too_large"
    title = "Image too large"


class ImageTooSlowError(ImageError):
    """Decoding the image takes longer than the limit."""

    code = "image_too_slow"
    title = "Image takes too long to decode"


class NotFiniteError(ImageError):
    """The network's scores for the image are not finite, so no class can be named for it."""

    code = "scores_not_finite"
    title = "Scores are not finite"


class InvalidImagesError(InputError):
    """Some images of a request are wrong; names each by its index, counted from 0."""

    code = "invalid_images"
    title = "Invalid images"

    def __init__(self, errors: Mapping[int, ImageError], *, of: int) -> None:
        """Collect the errors by index; ``of`` is the number of images in the request."""
        indices = ", ".join(str(index) for index in sorted(errors))
        super().__init__(
            f"{len(errors)} of {of} images can't be used: index {indices}.",
            hint="Fix or leave out these images, or send on_error=skip to get the others answered.",
        )
        self.errors = dict(errors)


class NotFoundError(ServiceError):
    """The request names something that is not served."""

    code = "not_found"
    title = "Not found"


class ModelNotFoundError(NotFoundError):
    """No model has this name."""

    code = "model_not_found"
    title = "Model not found"


class VersionNotFoundError(NotFoundError):
    """The model has no such version."""

    code = "version_not_found"
    title = "Version not found"


class UnavailableError(ServiceError):
    """The service can't answer now.

    Attributes:
        retry_after_s: When a new attempt makes sense, seconds.
    """

    code = "unavailable"
    title = "Unavailable"

    def __init__(self, detail: str, *, hint: str, retry_after_s: int = 1) -> None:
        """Say what happened, what to do, and when."""
        super().__init__(detail, hint=hint)
        self.retry_after_s = retry_after_s


class ModelNotReadyError(UnavailableError):
    """The model is known, but none of its versions can answer."""

    code = "model_not_ready"
    title = "Model not ready"


class QueueFullError(UnavailableError):
    """More images wait than the queue holds."""

    code = "queue_full"
    title = "Queue full"


class StoppingError(UnavailableError):
    """The service was told to stop and takes nothing new."""

    code = "stopping"
    title = "Stopping"


class DeadlineExceededError(UnavailableError):
    """The request waited longer than its deadline allows."""

    code = "deadline_exceeded"
    title = "Deadline exceeded"


class InferenceError(ServiceError):
    """The network failed on valid input."""

    code = "inference_failed"
    title = "Inference failed"


class OutOfMemoryError(InferenceError):
    """There was no memory for a run, not even for a single image."""

    code = "out_of_memory"
    title = "Out of memory"


class DeviceLostError(InferenceError):
    """The GPU fails, and whatever this process sends to it from now on."""

    code = "device_lost"
    title = "Device lost"


class RunTimedOutError(InferenceError):
    """A run took longer than a run may, and was ended or given up."""

    code = "run_timed_out"
    title = "Run timed out"


class ModelLoadError(ServiceError):
    """A model file can't be served: unreadable, inconsistent, or it fails its golden images."""

    code = "model_load_failed"
    title = "Model can't be loaded"


class DeviceError(ServiceError):
    """The demanded device can't run the model."""

    code = "device_unavailable"
    title = "Device unavailable"
