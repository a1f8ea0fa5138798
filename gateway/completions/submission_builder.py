"""From a body to a submission: prompts, limits, seeds."""

import secrets
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from gateway.chat.output_planner import OutputPlanner
from gateway.completions.submission import PreparedPrompt, Submission
from gateway.protocol.openai_requests import ChatCompletionBody, CompletionBody, GenerationBody, Prompt
from gateway.text.choice_text import TextRules
from gateway.tokenizers.prompt_tokens import PromptTokenizer
from gateway.tokenizers.tokenizer import Tokenizer
from shared.errors import InvalidRequestError, ServiceUnavailableError
from shared.sampling import SamplingParams

MAX_CHOICES: Final = 1024
"""Prompts times choices of one API call, at most."""

_DEFAULT_COMPLETION_TOKENS: Final = 16
"""OpenAI's default for /v1/completions; a chat without a limit may fill the context."""


class SubmissionBuilder:
    """Turns bodies into submissions, or says what is wrong with them."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_model_len: Callable[[], int | None],
        planner: OutputPlanner,
        *,
        max_logprobs: int = 20,
        trusts_templates: bool = False,
    ) -> None:
        """Keep the collaborators.

        Args:
            tokenizer: The model's.
            max_model_len: Tokens of a prompt and its output together, or None while nobody knows.
            planner: Of what outputs must look like.
            max_logprobs: Likeliest tokens told beside each token, at most.
            trusts_templates: See `PromptTokenizer`.
        """
        self.prompts = PromptTokenizer(tokenizer, trusts_templates=trusts_templates)
        self._tokenizer = tokenizer
        self._max_model_len = max_model_len
        self._planner = planner
        self._max_logprobs = max_logprobs

    async def chat(self, body: ChatCompletionBody, completion_id: str) -> Submission:
        """One conversation.

        Raises:
            InvalidRequestError: it does not fit the template, the vocabulary or the context.
        """
        text = self.prompts.render(body)
        token_ids = await self.prompts.text(text, add_special_tokens=body.add_special_tokens)
        plan = await self._planner.message(body, text, completion_id)
        last = body.messages[-1]
        echo = last.content if body.echo and last.role == "assistant" else ""
        prepared = self._prepare(body, [(token_ids, echo)], plan.grammar, param="messages", default_limit=None)
        submission = self._submission(body, completion_id, prepared, is_whole_text=True)
        return submission._replace(reading=plan.reading)

    async def text(self, body: CompletionBody, completion_id: str) -> Submission:
        """One or several prompts.

        Raises:
            InvalidRequestError: one of them does not fit the vocabulary or the context.
        """
        if len(body.prompts) * body.num_made > MAX_CHOICES:
            raise InvalidRequestError(
                f"{len(body.prompts)} prompts with n={body.num_made} make over {MAX_CHOICES} choices; send fewer at a "
                "time",
                param="prompt",
            )
        prompts = [await self._prompt(prompt, body) for prompt in body.prompts]
        plan = await self._planner.text(body)
        prepared = self._prepare(body, prompts, plan.grammar, param="prompt", default_limit=_DEFAULT_COMPLETION_TOKENS)
        return self._submission(body, completion_id, prepared, is_whole_text=False)

    async def _prompt(self, prompt: Prompt, body: CompletionBody) -> tuple[Sequence[int], str]:
        """Token ids, and the text that is echoed."""
        if isinstance(prompt, str):
            ids = await self.prompts.text(prompt, add_special_tokens=body.add_special_tokens)
            return ids, prompt if body.echo else ""
        self.prompts.check_ids(prompt, "prompt")
        return prompt, self._tokenizer.decode(prompt) if body.echo else ""

    def _submission(
        self, body: GenerationBody, completion_id: str, prompts: Sequence[PreparedPrompt], *, is_whole_text: bool
    ) -> Submission:
        rules = TextRules(
            stops=body.stop,
            stop_token_ids=body.stop_token_ids,
            min_tokens=body.min_tokens,
            includes_stop=body.include_stop_str_in_output,
            shows_special=not body.skip_special_tokens,
            is_whole_text=is_whole_text,
        )
        return Submission(
            completion_id,
            tuple(prompts),
            rules,
            num_kept=body.n,
            is_silent=body.output_limit == 0,
            priority=body.priority,
            cache_salt=body.cache_salt,
        )

    def _prepare(
        self,
        body: GenerationBody,
        prompts: Sequence[tuple[Sequence[int], str]],
        grammar: str,
        *,
        param: str,
        default_limit: int | None,
    ) -> list[PreparedPrompt]:
        self._check(body)
        seed = secrets.randbits(64) if body.seed is None else body.seed % 2**64
        sampling = self._sampling(body, seed, grammar)
        prepared = []
        for whole, echo in prompts:
            token_ids = self._truncated(whole, body)
            limit = self._output_limit(body, len(token_ids), param, default_limit)
            if len(token_ids) < len(whole) and echo:
                echo = self._tokenizer.decode(token_ids)  # noqa: PLW2901
            prepared.append(PreparedPrompt(token_ids, msgspec.structs.replace(sampling, max_tokens=limit), echo))
        return prepared

    def _check(self, body: GenerationBody) -> None:
        for name in ("stop_token_ids", "allowed_token_ids"):
            self.prompts.check_ids(getattr(body, name) or (), name)
        self.prompts.check_ids(list(body.logit_bias), "logit_bias")
        asked = {
            "top_logprobs" if isinstance(body, ChatCompletionBody) else "logprobs": body.num_top_logprobs,
            "prompt_logprobs": body.prompt_logprobs,
        }
        for name, count in asked.items():
            if count is not None and count > self._max_logprobs:
                raise InvalidRequestError(
                    f"'{name}' is {count}; this server tells at most {self._max_logprobs} (--max-logprobs)", param=name
                )

    def _truncated(self, token_ids: Sequence[int], body: GenerationBody) -> Sequence[int]:
        kept = body.truncate_prompt_tokens
        if kept is None:
            return token_ids
        if kept == -1:
            kept = self._context() - max(body.output_limit or 1, 1)
        if len(token_ids) <= kept:
            return token_ids
        return token_ids[:kept] if body.truncation_side == "right" else token_ids[len(token_ids) - kept :]

    def _context(self) -> int:
        context = self._max_model_len()
        if context is None:
            raise ServiceUnavailableError("no worker has told the model's context length yet; try again")
        return context

    def _output_limit(self, body: GenerationBody, num_prompt_tokens: int, param: str, default: int | None) -> int:
        context = self._context()
        if num_prompt_tokens == 0:
            raise InvalidRequestError(f"'{param}' is empty", param=param)
        rest = context - num_prompt_tokens
        asked = body.output_limit
        # To be silent takes a token, too: see `SilentChoice`.
        limit = min(rest, default or rest) if asked is None else max(asked, 1)
        if rest < 1 or limit > rest:
            raise InvalidRequestError(
                f"This model's maximum context length is {context} tokens. However, you requested "
                f"{num_prompt_tokens + max(limit, 0)} tokens ({num_prompt_tokens} in the {param}, {max(limit, 0)} for "
                f"the completion). Please reduce the length of the {param} or the completion.",
                param=param,
                code="context_length_exceeded",
            )
        if body.min_tokens > (limit if asked is None else asked):
            raise InvalidRequestError(
                f"'min_tokens' is {body.min_tokens}, more than the {limit if asked is None else asked} tokens of "
                "'max_tokens'",
                param="min_tokens",
            )
        return limit

    def _sampling(self, body: GenerationBody, seed: int, grammar: str) -> SamplingParams:
        """For one of the prompts, all but the length of its output. With a grammar the model's ends count always."""
        ends = () if body.ignore_eos and not grammar else self._tokenizer.eos_token_ids
        num_logprobs = body.num_top_logprobs
        if num_logprobs is None and body.num_made > body.n:
            num_logprobs = 0  # the best is chosen by them
        return SamplingParams(
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=max(body.top_k, 0),
            min_p=body.min_p,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            repetition_penalty=body.repetition_penalty,
            seed=seed,
            min_tokens=body.min_tokens,
            stop_token_ids=tuple(dict.fromkeys((*body.stop_token_ids, *ends))),
            n=body.num_made,
            logit_bias=tuple(body.logit_bias.items()),
            allowed_token_ids=tuple(dict.fromkeys(body.allowed_token_ids or ())),
            bad_words=self.prompts.bad_words(body.bad_words),
            logprobs=num_logprobs,
            prompt_logprobs=body.num_top_prompt_logprobs,
            grammar=grammar,
        )
