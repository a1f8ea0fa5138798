"""The fields of a body that say what the output must be: OpenAI's `response_format`, vLLM's `structured_outputs`."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Final, Literal

from llguidance.gbnf_to_lark import any_to_lark
from pydantic import BaseModel, ConfigDict, Field

from gateway.grammars.output_grammar import WHITESPACE, Constraint, GrammarText, choice
from shared.errors import InvalidRequestError

_MAX_GBNF_CHARACTERS: Final = 8192
"""Converting them takes up to half a second, and the time grows with the square."""

_ANY_OBJECT: Final[Mapping[str, Any]] = {"type": "object"}

Schema = dict[str, Any] | str
"""JSON Schema, or its text."""
Choices = Annotated[list[str], Field(min_length=1, max_length=10_000)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, populate_by_name=True)


class _JsonSchemaBody(_Strict):
    name: str = Field(default="", max_length=64)
    description: str | None = None
    content: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(_Strict):
    """OpenAI's `response_format`. A schema that is not strict is enforced as far as possible."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchemaBody | None = None

    def constraint(self) -> Constraint | None:
        """What it asks for.

        Raises:
            InvalidRequestError: there is no schema.
        """
        if self.type == "text":
            return None
        if self.type == "json_object":
            return Constraint("response_format", partial(GrammarText.json, schema=_ANY_OBJECT, is_strict=True))
        if self.json_schema is None:
            raise InvalidRequestError(
                "'response_format' is of type 'json_schema', but has no 'json_schema'", param="response_format"
            )
        schema = _ANY_OBJECT if self.json_schema.content is None else self.json_schema.content
        rule = partial(GrammarText.json, schema=schema, is_strict=bool(self.json_schema.strict))
        return Constraint("response_format", rule)


class StructuredOutputs(_Strict):
    """vLLM's `structured_outputs`: one of the first five."""

    schema_: Schema | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False

    @property
    def kinds(self) -> list[str]:
        """Which of the five are given."""
        kinds = {"json": self.schema_, "regex": self.regex, "choice": self.choice, "grammar": self.grammar}
        return [kind for kind, value in kinds.items() if value is not None] + ["json_object"] * bool(self.json_object)

    def constraint(self, prefix: str) -> Constraint:
        """What it asks for.

        Args:
            prefix: Of the names of the fields.

        Raises:
            InvalidRequestError: none of the five is given, or several, or one that is wrong at first sight.
        """
        given = self.kinds
        if len(given) != 1:
            wanted = "'json', 'regex', 'choice', 'grammar' or 'json_object'"
            found = " and ".join(map(repr, given)) or "none"
            raise InvalidRequestError(
                f"'{prefix.rstrip('._')}' takes one of {wanted}, got {found}", param=prefix.rstrip("._")
            )
        param = f"{prefix}{given[0]}"
        if self.regex is not None:
            return Constraint(param, partial(GrammarText.regex, pattern=self.regex))
        if self.choice is not None:
            alternatives = self.choice
            return Constraint(param, lambda text: choice([text.plain(alternative) for alternative in alternatives]))
        if self.grammar is not None:
            source = self.grammar
            return Constraint(param, lambda text: text.own(_lark(source, param)))
        schema = _ANY_OBJECT if self.schema_ is None else _schema(self.schema_, param)
        if self.disable_additional_properties:
            schema = _without_additional_properties(schema)
        whitespace = None if self.disable_any_whitespace else self.whitespace_pattern or WHITESPACE
        return Constraint(param, partial(GrammarText.json, schema=schema, is_strict=True, whitespace=whitespace))


class OutputFields(BaseModel):
    """What a body may say about its output's form. The names that begin with `guided_` are vLLM's older ones."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None

    @property
    def constraint(self) -> Constraint | None:
        """What is asked for; None if any text will do.

        Raises:
            InvalidRequestError: several things are asked for, or one that is wrong at first sight.
        """
        asked = [self._of_response_format(), self._of_structured_outputs(), self._of_guided_fields()]
        constraints = [constraint for constraint in asked if constraint is not None]
        if len(constraints) > 1:
            names = " and ".join(f"'{constraint.param}'" for constraint in constraints)
            raise InvalidRequestError(f"{names} contradict each other; leave one out", param=constraints[1].param)
        return constraints[0] if constraints else None

    def _of_response_format(self) -> Constraint | None:
        return None if self.response_format is None else self.response_format.constraint()

    def _of_structured_outputs(self) -> Constraint | None:
        outputs = self.structured_outputs
        return None if outputs is None else outputs.constraint("structured_outputs.")

    def _of_guided_fields(self) -> Constraint | None:
        older = StructuredOutputs(
            json=self.guided_json,
            regex=self.guided_regex,
            choice=self.guided_choice,
            grammar=self.guided_grammar,
            whitespace_pattern=self.guided_whitespace_pattern,
        )
        return older.constraint("guided_") if older.kinds else None


def _schema(given: Schema, param: str) -> Mapping[str, Any]:
    if isinstance(given, dict):
        return given
    try:
        schema = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"'{param}' is no valid JSON: {error}", param=param) from error
    if not isinstance(schema, dict):
        raise InvalidRequestError(f"'{param}' is a JSON {type(schema).__name__}; expected an object", param=param)
    return schema


def _lark(source: str, param: str) -> str:
    """A grammar as Lark text; one with `::=` is GBNF, as llama.cpp's and xgrammar's are.

    Raises:
        InvalidRequestError: it is GBNF, and wrong or too long.
    """
    if "::=" not in source:
        return source
    if len(source) > _MAX_GBNF_CHARACTERS:
        raise InvalidRequestError(
            f"'{param}' has {len(source)} characters of GBNF, more than {_MAX_GBNF_CHARACTERS}; write it as Lark",
            param=param,
        )
    try:
        return any_to_lark(source)
    except Exception as error:  # the library raises nothing narrower
        reason = " ".join(str(error).split())
        raise InvalidRequestError(f"'{param}' is no valid grammar: {reason}", param=param) from error


def _without_additional_properties(value: Any) -> Any:  # noqa: ANN401 - any part of a JSON document
    """A schema whose objects have the properties that it names, and no others."""
    if isinstance(value, list):
        return [_without_additional_properties(item) for item in value]
    if not isinstance(value, dict):
        return value
    inner = {key: _without_additional_properties(item) for key, item in value.items()}
    is_object = "properties" in value or value.get("type") == "object"
    return {"additionalProperties": False} | inner if is_object else inner
