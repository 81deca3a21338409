"""The guide: what the OpenAPI document says, in a shape that a page can list."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: str
    required: bool
    description: str


@dataclass(frozen=True)
class Endpoint:
    """One method of one path, with a command that asks it."""

    method: str
    path: str
    summary: str
    description: str
    parameters: tuple[Parameter, ...]
    answers: tuple[tuple[str, str], ...]
    command: str


def endpoints(document: Mapping[str, Any], base: str) -> list[Endpoint]:
    """Those of an OpenAPI document, in its order; `base` is the server's address."""
    return [
        _endpoint(document, base, method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def _endpoint(document: Mapping[str, Any], base: str, method: str, path: str, operation: Mapping[str, Any]) -> Endpoint:
    asked = operation.get("parameters", [])
    body = _body(document, operation)
    listed = [(one["name"], one["schema"], one.get("required", False), one.get("description", "")) for one in asked]
    listed += [
        (name, schema, name in body.get("required", []), schema.get("description", ""))
        for name, schema in body.get("properties", {}).items()
    ]
    return Endpoint(
        method=method.upper(),
        path=path,
        summary=operation.get("summary", ""),
        description=operation.get("description", ""),
        parameters=tuple(
            Parameter(name, _kind(schema), required, said or schema.get("description", ""))
            for name, schema, required, said in sorted(listed, key=lambda one: not one[2])
        ),
        answers=tuple((status, answer["description"]) for status, answer in operation["responses"].items()),
        command=_command(base, method, path, asked, body),
    )


def _body(document: Mapping[str, Any], operation: Mapping[str, Any]) -> Mapping[str, Any]:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return {}
    named: Mapping[str, Any] = document["components"]["schemas"][content["schema"]["$ref"].rsplit("/", 1)[-1]]
    return named


def _kind(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    kind: str = schema.get("format", schema.get("type", "any"))
    return f"{kind}, {schema['default']} by default" if schema.get("default") is not None else kind


def _example(schema: Mapping[str, Any]) -> Any:
    return next(iter(schema.get("examples", [])), None)


def _command(base: str, method: str, path: str, asked: list[Any], body: Mapping[str, Any]) -> str:
    query = {}
    for one in asked:
        example = _example(one["schema"])
        if one["in"] == "path":
            path = path.replace("{" + one["name"] + "}", quote(str(example)))
        elif one.get("required") or one["name"] == "k":
            query[one["name"]] = example
    address = f"{base}{path}" + (f"?{urlencode(query)}" if query else "")
    if method == "get":
        return f"curl {shlex.quote(address)}"
    sent = {name: _example(schema) for name, schema in body["properties"].items() if name in ("q", "k", "category")}
    return f"curl {shlex.quote(address)} --json {shlex.quote(json.dumps(sent))}"
