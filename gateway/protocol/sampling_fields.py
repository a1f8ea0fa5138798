"""The fields of a body that say how tokens are chosen. Ranges are OpenAI's, or vLLM's where OpenAI has none."""

from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

MAX_STOP_STRINGS: Final = 16
_MAX_STOP_CHARACTERS: Final = 1024
_MAX_BAD_WORDS: Final = 256
_MAX_BIASES: Final = 1024
_MAX_BIAS: Final = 100


def _as_list(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


def _as_biases(biases: object) -> dict[int, Any]:
    """JSON has no other keys than strings."""
    if not isinstance(biases, dict):
        raise PydanticCustomError("logit_bias", "Input should be an object from token ids to numbers")
    if bad := next((key for key in biases if not (isinstance(key, str) and key.isdecimal() and key.isascii())), None):
        raise PydanticCustomError("logit_bias", "Keys should be token ids, got {key}", {"key": repr(bad)[:80]})
    return {int(token[:20]): bias for token, bias in biases.items()}


StopString = Annotated[str, Field(min_length=1, max_length=_MAX_STOP_CHARACTERS)]


class SamplingFields(BaseModel):
    """What both endpoints have in common of it."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=-1, lt=2**31)
    min_p: float = Field(default=0.0, ge=0, le=1)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    repetition_penalty: float = Field(default=1.0, gt=0)
    logit_bias: Annotated[
        dict[int, Annotated[float, Field(ge=-_MAX_BIAS, le=_MAX_BIAS)]],
        BeforeValidator(_as_biases, json_schema_input_type=dict[str, float]),
        Field(max_length=_MAX_BIASES),
    ] = {}
    allowed_token_ids: list[int] | None = Field(default=None, min_length=1)
    bad_words: list[StopString] = Field(default=[], max_length=_MAX_BAD_WORDS)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    min_tokens: int = Field(default=0, ge=0)
    n: int = Field(default=1, ge=1, le=128)
    stop: Annotated[
        list[StopString],
        BeforeValidator(_as_list, json_schema_input_type=StopString | list[StopString]),
        Field(max_length=MAX_STOP_STRINGS),
    ] = []
    stop_token_ids: list[int] = Field(default=[], max_length=256)
    ignore_eos: bool = False
    prompt_logprobs: int | None = Field(default=None, ge=0)
