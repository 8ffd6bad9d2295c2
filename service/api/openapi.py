"""The OpenAPI document, corrected where the framework can't know better."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

PROBLEM_TYPE = "application/problem+json"
_PROBLEM = "#/components/schemas/Problem"
_FRAMEWORKS_OWN = ("HTTPValidationError", "ValidationError")


def install(app: FastAPI) -> None:
    """Let an app describe its errors as what they are: problem documents."""
    generate = app.openapi

    def corrected() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            for path in document["paths"].values():
                for operation in path.values():
                    operation["responses"] = _corrected(operation["responses"])
            for name in _FRAMEWORKS_OWN:
                document["components"]["schemas"].pop(name, None)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = corrected  # type: ignore[method-assign]  # the framework's documented way


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
