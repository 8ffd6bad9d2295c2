"""The JSON of an inference, within bounds, and the checks that its parts share.

Source: Open Inference Protocol, REST; Triton's parameters extension.
"""

from __future__ import annotations

import json
import reprlib
from typing import Any

import orjson

from service.api.limits import check_json
from service.engine.errors import InvalidParameterError, MalformedRequestError

_NOT_FINITE = (b"NaN", b"Infinity")
_HINT = 'Send {"inputs": [{"name": ..., "shape": [...], "datatype": ..., "data": [...]}]}.'


def parse_object(text: bytes | bytearray) -> dict[str, Any]:
    """Parse the JSON object that a request is. Bare NaN and Infinity are numbers.

    Raises:
        MalformedRequestError: It is no JSON, or no object.
        RequestTooLargeError: It has too many values.
    """
    check_json(text, "Send binary tensor data, or fewer images in one request.")
    document = _loads(text)
    if not isinstance(document, dict):
        raise MalformedRequestError(f"The JSON is {shown(document)}, not an object.", hint=_HINT)
    return document


def _loads(text: bytes | bytearray) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        reason = str(error)
    # Python's own parser is slower, and reads what Python's own writer writes.
    if any(word in text for word in _NOT_FINITE):
        try:
            return json.loads(text)
        except RecursionError:
            reason = "it is nested too deeply"
        except ValueError as error:
            reason = str(error)
    raise MalformedRequestError(f"The body is not JSON: {reason}.", hint=_HINT)


def read_list(given: Any, what: str) -> list[dict[str, Any]]:
    """A list of objects; ``what`` names it.

    Raises:
        MalformedRequestError: It is something else.
    """
    if not isinstance(given, list):
        raise MalformedRequestError(f"{what} is {shown(given)}, not a list.", hint=_HINT)
    for one in given:
        if not isinstance(one, dict):
            raise MalformedRequestError(f"{what} has {shown(one)}, not an object.", hint=_HINT)
    return given


def read_text(given: Any, what: str) -> str:
    """A text; ``what`` names it.

    Raises:
        MalformedRequestError: It is something else.
    """
    # Half of a surrogate pair, which Python's parser lets through, is no text either.
    if not isinstance(given, str) or not _is_text(given):
        raise MalformedRequestError(f"{what} is {shown(given)}, not a string.", hint=_HINT)
    return given


def _is_text(given: str) -> bool:
    try:
        given.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_parameters(given: Any, what: str) -> dict[str, str | int | float | bool]:
    """An object of strings, numbers and booleans, or none at all; ``what`` names it.

    Raises:
        InvalidParameterError: It is something else.
    """
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InvalidParameterError(
            f"{what} are {shown(given)}.", hint='Send an object, as in {"binary_data": true}.'
        )
    for name, value in given.items():
        if not isinstance(value, str | int | float | bool):
            raise InvalidParameterError(
                f"Parameter {shown(name)} of {what} is {shown(value)}.",
                hint="Parameters are strings, numbers and booleans.",
            )
    return given


def read_number(given: Any, what: str) -> int:
    """A whole number that is not negative; ``what`` names it.

    Raises:
        InvalidParameterError: It is something else, a boolean for example.
    """
    if type(given) is not int or given < 0:
        raise InvalidParameterError(
            f"{what} is {shown(given)}.", hint="Send a whole number, 0 or more."
        )
    return given


def read_flag(given: Any, what: str) -> bool:
    """A boolean; ``what`` names it.

    Raises:
        InvalidParameterError: It is something else.
    """
    if not isinstance(given, bool):
        raise InvalidParameterError(f"{what} is {shown(given)}.", hint="Send true or false.")
    return given


def shown(value: object) -> str:
    """A value as an error shows it: short, however large it is."""
    return reprlib.repr(value)[:100]
