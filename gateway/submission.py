"""From a body to messages for the scheduler: the chat template, tokenising, limits, seeds."""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from gateway.openai_requests import ChatCompletionBody, CompletionBody, GenerationBody, Prompt
from gateway.tokenizer import Tokenizer
from shared.errors import InvalidRequestError, ServiceUnavailableError
from shared.ids import GatewayId, Handle, RequestId
from shared.messages import Submit
from shared.packing import pack_u32
from shared.sampling import SamplingParams

MAX_CHOICES: Final = 1024
"""Prompts times choices of one API call, at most."""

_DEFAULT_COMPLETION_TOKENS: Final = 16
"""OpenAI's default for /v1/completions; a chat without a limit may fill the context."""

_INLINE_CHARACTERS: Final = 4096
"""A longer text is tokenised in a thread: about a millisecond of the event loop."""


class PreparedPrompt(NamedTuple):
    """One prompt with the parameters of its choices."""

    token_ids: Sequence[int]
    sampling: SamplingParams


class Submission(NamedTuple):
    """One API call, ready to be sent.

    Attributes:
        completion_id: What the client sees; the requests on the bus are named after it.
        prompts: One request on the bus each, all with the same number of choices.
        stops: Stop strings.
        priority: Lower runs first.
        cache_salt: Prefixes are shared only among the same salt.
    """

    completion_id: str
    prompts: tuple[PreparedPrompt, ...]
    stops: tuple[str, ...]
    priority: int
    cache_salt: str

    @property
    def num_choices_per_prompt(self) -> int:
        """The API's n."""
        return self.prompts[0].sampling.n

    @property
    def num_choices(self) -> int:
        """Over all prompts."""
        return len(self.prompts) * self.num_choices_per_prompt

    def messages(self, gateway_id: GatewayId, first_handle: Handle) -> list[Submit]:
        """The requests for the bus; their choices have consecutive handles from the first one on."""
        n = self.num_choices_per_prompt
        single = len(self.prompts) == 1
        return [
            Submit(
                request_id=RequestId(self.completion_id if single else f"{self.completion_id}-{i}"),
                gateway_id=gateway_id,
                handle=Handle(first_handle + i * n),
                prompt=pack_u32(prompt.token_ids),
                sampling=prompt.sampling,
                arrived_ms=time.time_ns() // 1_000_000,
                priority=self.priority,
                cache_salt=self.cache_salt,
            )
            for i, prompt in enumerate(self.prompts)
        ]


class SubmissionBuilder:
    """Turns bodies into submissions, or says what is wrong with them."""

    def __init__(self, tokenizer: Tokenizer, max_model_len: Callable[[], int | None]) -> None:
        """Keep the collaborators.

        Args:
            tokenizer: The model's.
            max_model_len: Tokens of a prompt and its output together, or None while nobody knows.
        """
        self._tokenizer = tokenizer
        self._max_model_len = max_model_len

    async def chat(self, body: ChatCompletionBody, completion_id: str) -> Submission:
        """One conversation.

        Raises:
            InvalidRequestError: it does not fit the template, the vocabulary or the context.
        """
        messages = [_template_message(message.model_dump()) for message in body.messages]
        text = self._tokenizer.render_chat(messages, add_generation_prompt=body.add_generation_prompt)
        token_ids = await self._encode(text, add_special_tokens=False)
        return self._submission(body, completion_id, [token_ids], param="messages", default_limit=None)

    async def text(self, body: CompletionBody, completion_id: str) -> Submission:
        """One or several prompts.

        Raises:
            InvalidRequestError: one of them does not fit the vocabulary or the context.
        """
        if len(body.prompts) * body.n > MAX_CHOICES:
            raise InvalidRequestError(
                f"{len(body.prompts)} prompts with n={body.n} make over {MAX_CHOICES} choices; send fewer at a time",
                param="prompt",
            )
        prompts = [await self._prompt_ids(prompt) for prompt in body.prompts]
        return self._submission(body, completion_id, prompts, param="prompt", default_limit=_DEFAULT_COMPLETION_TOKENS)

    async def _prompt_ids(self, prompt: Prompt) -> Sequence[int]:
        if isinstance(prompt, str):
            return await self._encode(prompt, add_special_tokens=True)
        self._check_ids(prompt, "prompt")
        return prompt

    async def _encode(self, text: str, *, add_special_tokens: bool) -> Sequence[int]:
        if len(text) <= _INLINE_CHARACTERS:
            return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return await asyncio.to_thread(self._tokenizer.encode, text, add_special_tokens=add_special_tokens)

    def _check_ids(self, token_ids: Sequence[int], param: str) -> None:
        size = self._tokenizer.vocab_size
        for token in token_ids:
            if not 0 <= token < size:
                raise InvalidRequestError(
                    f"'{param}': token id {token} is not in the vocabulary [0, {size})", param=param
                )

    def _submission(
        self,
        body: GenerationBody,
        completion_id: str,
        prompts: Sequence[Sequence[int]],
        *,
        param: str,
        default_limit: int | None,
    ) -> Submission:
        self._check_ids(body.stop_token_ids, "stop_token_ids")
        seed = secrets.randbits(64) if body.seed is None else body.seed % 2**64
        prepared = [
            PreparedPrompt(ids, self._sampling(body, seed, self._output_limit(body, len(ids), param, default_limit)))
            for ids in prompts
        ]
        return Submission(completion_id, tuple(prepared), tuple(body.stop), body.priority, body.cache_salt)

    def _output_limit(self, body: GenerationBody, num_prompt_tokens: int, param: str, default: int | None) -> int:
        context = self._max_model_len()
        if context is None:
            raise ServiceUnavailableError("no worker has told the model's context length yet; try again")
        if num_prompt_tokens == 0:
            raise InvalidRequestError(f"'{param}' is empty", param=param)
        rest = context - num_prompt_tokens
        limit = body.output_limit or min(rest, default or rest)
        if rest < 1 or limit > rest:
            raise InvalidRequestError(
                f"This model's maximum context length is {context} tokens. However, you requested "
                f"{num_prompt_tokens + max(limit, 0)} tokens ({num_prompt_tokens} in the {param}, {max(limit, 0)} for "
                f"the completion). Please reduce the length of the {param} or the completion.",
                param=param,
                code="context_length_exceeded",
            )
        if body.min_tokens > limit:
            raise InvalidRequestError(
                f"'min_tokens' is {body.min_tokens}, more than the {limit} tokens of 'max_tokens'", param="min_tokens"
            )
        return limit

    def _sampling(self, body: GenerationBody, seed: int, max_tokens: int) -> SamplingParams:
        ends = () if body.ignore_eos else self._tokenizer.eos_token_ids
        return SamplingParams(
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=max(body.top_k, 0),
            min_p=body.min_p,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            repetition_penalty=body.repetition_penalty,
            seed=seed,
            max_tokens=max_tokens,
            min_tokens=body.min_tokens,
            stop_token_ids=tuple(dict.fromkeys((*body.stop_token_ids, *ends))),
            n=body.n,
        )


def _template_message(message: dict[str, object]) -> dict[str, object]:
    """Templates know the role "developer" by its older name."""
    return message | {"role": "system"} if message["role"] == "developer" else message
