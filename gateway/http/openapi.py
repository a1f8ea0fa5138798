"""The description of the API at /openapi.json, derived from the very models that read bodies and write answers."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeVar

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from gateway.protocol.openai_responses import ErrorBody

JsonSchema = dict[str, Any]
_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])

_REFERENCE: Final = "#/components/schemas/"
_ERRORS: Final = {"4XX": "The request is wrong, or cannot be served now.", "5XX": "The server is at fault."}
_DESCRIPTION: Final = "OpenAI's API, served by pagestream. Fields that OpenAI does not have are vLLM's."


@dataclass(frozen=True, kw_only=True)
class Documentation:
    """What a route reads and writes.

    Attributes:
        body: The model of its JSON body.
        form: The schema of its form, if it reads one instead.
        answer: The type of its JSON answer.
        event: The type, or the name, of the data of its stream's events, if it can stream.
        content: The kind and a description of an answer that is no JSON.
        statuses: What else it may answer, in the same form.
    """

    body: type[BaseModel] | None = None
    form: JsonSchema | None = None
    answer: Any = None
    event: Any = None
    content: tuple[str, str] | None = None
    statuses: Mapping[int, str] | None = None


_documentations: Final[dict[str, Documentation]] = {}
"""By the name of a route's function. Filled while modules are imported."""


def documented(**what: Any) -> Callable[[_Endpoint], _Endpoint]:  # noqa: ANN401 - the fields of Documentation
    """Say what a route reads and writes; the fields are those of `Documentation`."""

    def keep(endpoint: _Endpoint) -> _Endpoint:
        _documentations[endpoint.__name__] = Documentation(**what)
        return endpoint

    return keep


def operation_id(route: APIRoute) -> str:
    """What a route is called: as its function is."""
    return route.name


def describe(app: FastAPI) -> JsonSchema:
    """The OpenAPI document of an application.

    Raises:
        KeyError: a route is not documented.
    """
    document = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes)
    operations = [(operation, _documentations[operation["operationId"]]) for operation in _operations(document)]
    names, schemas = _components([documentation for _, documentation in operations])
    for operation, documentation in operations:
        _complete(operation, documentation, names)
    document["components"] = {
        "schemas": dict(sorted(schemas.items())),
        "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "description": "If the server wants one."}},
    }
    document["security"] = [{}, {"bearer": []}]
    return document


def _operations(document: JsonSchema) -> Iterator[JsonSchema]:
    for path in document["paths"].values():
        yield from path.values()


def _components(documentations: Iterable[Documentation]) -> tuple[dict[Any, JsonSchema], dict[str, JsonSchema]]:
    """A reference to each model and type, and what the references stand for."""
    bodies: list[type[BaseModel]] = []
    answers: list[Any] = [ErrorBody]
    for documentation in documentations:
        bodies += [documentation.body] if documentation.body else []
        answers += [kind for kind in (documentation.answer, documentation.event) if kind is not None]
    by_model, definitions = models_json_schema(
        [(body, "validation") for body in dict.fromkeys(bodies)],
        ref_template=f"{_REFERENCE}{{model}}",
        schema_generator=_PlainSchema,
    )
    answers = list(dict.fromkeys(answers))
    by_answer, components = msgspec.json.schema_components(answers, ref_template=f"{_REFERENCE}{{name}}")
    names: dict[Any, JsonSchema] = {body: schema for (body, _), schema in by_model.items()}
    schemas = {**components, **definitions["$defs"]}
    for body in bodies:
        _admit_nulls(schemas[names[body]["$ref"].removeprefix(_REFERENCE)], getattr(body, "no_op_values", {}))
    return names | dict(zip(answers, by_answer, strict=True)), schemas


class _PlainSchema(GenerateJsonSchema):
    """Without a title for every field: it would be its name again."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ANN401 - pydantic's own type
        """No."""
        return False


def _admit_nulls(schema: JsonSchema, no_op_values: Mapping[str, tuple[object, ...]]) -> None:
    """A body's field that is null counts as absent; one that is not served has values at which that changes nothing."""
    properties = schema.setdefault("properties", {})
    required = schema.get("required", ())
    for name, field in properties.items():
        if name not in required and {"type": "null"} not in field.get("anyOf", ()):
            properties[name] = {"anyOf": [field, {"type": "null"}]}
    for name, values in sorted(no_op_values.items()):
        properties[name] = {"enum": [*values, None], "description": "Not served: other values are refused."}


def _complete(operation: JsonSchema, documentation: Documentation, names: Mapping[Any, JsonSchema]) -> None:
    if documentation.body is not None:
        operation["requestBody"] = _body("application/json", names[documentation.body])
    if documentation.form is not None:
        operation["requestBody"] = _body("multipart/form-data", documentation.form)
    content: dict[str, JsonSchema] = {}
    if documentation.answer is not None:
        content["application/json"] = {"schema": names[documentation.answer]}
    if documentation.event is not None:
        content["text/event-stream"] = {"itemSchema": _event(names[documentation.event])}
    if documentation.content is not None:
        kind, description = documentation.content
        content[kind] = {"schema": {"type": "string", "description": description}}
    operation["responses"] = {"200": {"description": HTTPStatus.OK.phrase, "content": content}}
    for status, description in (documentation.statuses or {}).items():
        operation["responses"][str(status)] = {"description": description, "content": content}
    failure = {"application/json": {"schema": names[ErrorBody]}}
    operation["responses"] |= {
        statuses: {"description": description, "content": failure} for statuses, description in _ERRORS.items()
    }


def _event(data: JsonSchema) -> JsonSchema:
    """A server-sent event."""
    text = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    return {"type": "object", "properties": {"event": {"type": "string"}, "data": text}, "required": ["data"]}


def _body(kind: str, schema: JsonSchema) -> JsonSchema:
    return {"required": True, "content": {kind: {"schema": schema}}}
