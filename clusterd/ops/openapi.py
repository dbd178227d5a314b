"""The OpenAPI 3.1 document of the control socket, made from the table of its routes."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from clusterd.ops.exchange import JSON, LINES, TEXT, Error
from clusterd.ops.routes import Route

ALWAYS = {
    400: "The request makes no sense: what of it, and what was expected.",
    403: "Not for this user over this socket.",
}
TEXT_PLAIN = TEXT.partition(";")[0]


def document(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """The whole document.

    Args:
        version: clusterd's.
    """
    types = _types(routes)
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    by_type = dict(zip(map(str, types), schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_type, components)
    used = {name: part for name, part in components.items() if not name.endswith("Query")}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "clusterd",
            "version": version,
            "description": "The control socket of one service. Within /v1 members and routes are only added.",
        },
        "servers": [{"url": "http://localhost", "description": "the unix socket control.sock in the run directory"}],
        "paths": paths,
        "components": {"schemas": used},
    }


def _types(routes: Iterable[Route]) -> list[Any]:
    found: dict[str, Any] = {str(Error): Error}
    for route in routes:
        for kind in (route.answers, route.body, route.query):
            if kind is not None:
                found[str(kind)] = kind
    return list(found.values())


def _operation(route: Route, by_type: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_"),
        "summary": route.does,
        "x-role": route.role.title,
        "parameters": [*_path_parameters(route), *_query_parameters(route, components)],
    }
    if route.body is not None:
        operation["requestBody"] = {"required": False, "content": {JSON: {"schema": by_type[str(route.body)]}}}
    media: dict[str, Any] = {"schema": {"type": "string"} if route.text else by_type[str(route.answers)]}
    kind = TEXT_PLAIN if route.text else LINES if route.streams else JSON
    responses = {"200": {"description": "Done." if route.method == "POST" else "What is.", "content": {kind: media}}}
    failures = {**ALWAYS, **route.fails}
    if route.body is not None:
        failures[415] = f"The body is not {JSON}."
    for status, meaning in sorted(failures.items()):
        content = {JSON: {"schema": by_type[str(Error)]}}
        if route.text and status == 503:
            content = {TEXT_PLAIN: {"schema": {"type": "string"}}}
        responses[str(status)] = {"description": meaning, "content": content}
    operation["responses"] = responses
    return operation


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "integer", "minimum": 0} if name == "worker" else {"type": "string", "minLength": 1},
        }
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]


def _query_parameters(route: Route, components: dict[str, Any]) -> list[dict[str, Any]]:
    schema = components.get(route.query.__name__, {})
    parameters = []
    for name, declared in schema.get("properties", {}).items():
        part = dict(declared)
        described = {"description": part.pop("description")} if "description" in part else {}
        parameters.append({"name": name, "in": "query", "required": False, **described, "schema": part})
    return parameters
