"""From a body's bytes to a model of its fields, with errors that name the field, the value and the remedy."""

import math
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError

from shared.errors import InvalidRequestError

_MAX_SHOWN_CHARACTERS: Final = 80
_MAX_SHOWN_ITEMS: Final = 8
_MAX_SHOWN_BITS: Final = 128

_Body = TypeVar("_Body", bound=BaseModel)


def read_fields(body: bytes) -> dict[str, Any]:
    """The fields of a JSON object. A field that is null counts as absent.

    Raises:
        InvalidRequestError: it is no JSON object.
    """
    try:
        fields = pydantic_core.from_json(body)
    except ValueError as error:
        raise InvalidRequestError(f"the body is no valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidRequestError(f"the body is a JSON {type(fields).__name__}; expected an object")
    return {name: value for name, value in fields.items() if value is not None}


def refuse_unsupported(fields: Mapping[str, object], no_op_values: Mapping[str, tuple[object, ...]]) -> None:
    """Refuse fields that would change the answer and are not served.

    Args:
        fields: What was sent.
        no_op_values: Such fields, with the values at which they change nothing.

    Raises:
        InvalidRequestError: one of them has another value.
    """
    for name in fields.keys() & no_op_values.keys():
        if not any(_same(fields[name], value) for value in no_op_values[name]):
            raise InvalidRequestError(
                f"'{name}' is not supported by this server, got {show(fields[name])}; leave it out",
                param=name,
                code="unsupported_parameter",
            )


def validated(kind: type[_Body], fields: Mapping[str, object]) -> _Body:
    """The fields as a model.

    Raises:
        InvalidRequestError: one of them is wrong or missing.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _invalid(error) from error


def show(value: object) -> str:
    """A value as an error shows it, however large it is."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list | dict) and len(value) > _MAX_SHOWN_ITEMS:
        return f"{len(value)} items"
    if isinstance(value, int) and value.bit_length() > _MAX_SHOWN_BITS:
        return f"a number of {value.bit_length()} bits"
    shown = repr(value)
    return shown if len(shown) <= _MAX_SHOWN_CHARACTERS else f"{shown[:_MAX_SHOWN_CHARACTERS]}..."


def _same(value: object, other: object) -> bool:
    return type(value) is type(other) and value == other


def _invalid(error: ValidationError) -> InvalidRequestError:
    """The first fault, in one sentence with the field and the value."""
    first = error.errors(include_url=False, include_context=False)[0]
    param = _path(first["loc"])
    got = "" if first["type"] in {"missing", "content"} else f", got {show(first['input'])}"
    return InvalidRequestError(f"'{param}': {first['msg']}{got}", param=param)


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path
