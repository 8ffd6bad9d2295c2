"""The OpenAPI document, corrected where the framework can't know better."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from service.api.auth.gate import OPEN, Gate

PROBLEM_TYPE = "application/problem+json"
_PROBLEM = "#/components/schemas/Problem"
_PROTOCOL_ERROR = "#/components/schemas/ProtocolError"
_FRAMEWORKS_OWN = ("HTTPValidationError", "ValidationError")
# Of every route, for they are given before any of them is reached (``service.api.front``).
_OF_CALLERS = {
    "401": "Keys are asked for, and this one is missing or not known",
    "403": "The key lacks the scope",
    "429": "The key's rate is used up; see Retry-After and RateLimit",
}
_OF_SENDERS = {"408": "The body came too slowly"}
_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "an API key, or a token of the identity provider",
    },
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def install(app: FastAPI) -> None:
    """Let an app describe its errors as what they are, and whom it asks for a key."""
    generate = app.openapi
    gate: Gate = app.state.auth

    def corrected() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    operation["responses"] = _corrected(operation["responses"])
                    if path not in OPEN:
                        _describe_refusals(path, operation)
                        if gate.asks:
                            operation["security"] = [{name: []} for name in _SCHEMES]
                    for parameter in operation.get("parameters", ()):
                        parameter["schema"] = _without_null(parameter["schema"])
            for name in _FRAMEWORKS_OWN:
                document["components"]["schemas"].pop(name, None)
            if gate.asks:
                document["components"]["securitySchemes"] = _SCHEMES
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = corrected  # type: ignore[method-assign]  # the framework's documented way


def _describe_refusals(path: str, operation: dict[str, Any]) -> None:
    """Add what any route may answer, in the form that errors have there."""
    content = {PROBLEM_TYPE: {"schema": {"$ref": _PROBLEM}}}
    if path.startswith("/v2"):
        content = {"application/json": {"schema": {"$ref": _PROTOCOL_ERROR}}}
    for status, description in (_OF_CALLERS | _OF_SENDERS).items():
        if status in _OF_CALLERS or "requestBody" in operation:
            response = {"description": description, "content": content}
            operation["responses"].setdefault(status, response)


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter may be left out, but no text in a query or header is JSON's null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {**{key: value for key, value in schema.items() if key != "anyOf"}, **kinds[0]}


def _corrected(responses: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for status, response in responses.items():
        content = response.get("content", {})
        schema = content.get("application/json", {}).get("schema", {}).get("$ref", "")
        if schema.endswith("/HTTPValidationError"):
            continue  # a text in a path can't be wrong; routes with parameters state their own 422
        if schema == _PROBLEM:
            response = {**response, "content": {PROBLEM_TYPE: content["application/json"]}}
        kept[status] = response
    return kept
