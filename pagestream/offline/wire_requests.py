"""From people's parameters to those that cross the wire: tokens, seeds, limits, grammars."""

import random
from dataclasses import asdict
from typing import NamedTuple

from gateway.grammars.output_grammar import GrammarText
from gateway.grammars.structured_output import StructuredOutputs
from gateway.protocol.body_parsing import validated
from gateway.tokenizers.prompt_tokens import PromptTokenizer
from pagestream.offline.prompts import Prompt
from pagestream.offline.sampling_params import SamplingParams, StructuredOutputsParams
from shared.errors import GrammarError, InvalidArgumentError
from shared.grammar import GrammarCompiler
from shared.sampling import Pooling
from shared.sampling import SamplingParams as WireSamplingParams


class Request(NamedTuple):
    """One prompt and what is wanted of it.

    Attributes:
        priority: Lower runs first.
        pooling: What vector of the prompt is wanted.
    """

    prompt: Prompt
    params: SamplingParams
    priority: int = 0
    pooling: Pooling = Pooling.NONE


class WireRequests:
    """Knows what one model can be asked for.

    Attributes:
        max_model_len: Tokens of a prompt and its output together.

    Args:
        prompts: The model's tokenizer.
        max_model_len: See above.
        seed: Of the requests that bring none; None makes every run another.
    """

    def __init__(self, prompts: PromptTokenizer, *, max_model_len: int, seed: int | None) -> None:
        self.max_model_len = max_model_len
        self._prompts = prompts
        self._seeds = random.Random(seed)  # noqa: S311 - repeatable is what it is for
        tokenizer = prompts.tokenizer
        self._grammars = GrammarCompiler(tokenizer.to_json, tokenizer.eos_token_ids)

    def sampling(self, request: Request, number: int) -> WireSamplingParams:
        """A request's parameters.

        Args:
            request: As people gave it.
            number: Its place in the call.

        Raises:
            InvalidRequestError: it cannot be served.
        """
        params = request.params
        params.verify()
        num_prompt_tokens = len(request.prompt.token_ids)
        rest = self.max_model_len - num_prompt_tokens
        if not num_prompt_tokens or rest < 1:
            raise InvalidArgumentError(
                f"prompt {number} has {num_prompt_tokens} tokens; it must have at least 1, and at most "
                f"{self.max_model_len - 1} in a context of {self.max_model_len}: shorten it, or raise max_model_len",
                param="prompts",
            )
        biases = {int(token): bias for token, bias in (params.logit_bias or {}).items()}
        self._check_ids(params, list(biases))
        max_tokens = min(params.max_tokens or rest, rest)
        ends = () if params.ignore_eos else self._prompts.tokenizer.eos_token_ids
        structure = params.structured_outputs
        return WireSamplingParams(
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=max(params.top_k, 0),
            min_p=params.min_p,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            repetition_penalty=params.repetition_penalty,
            seed=self._seeds.getrandbits(64) if params.seed is None else params.seed % 2**64,
            max_tokens=max_tokens,
            min_tokens=min(params.min_tokens, max_tokens),
            stop_token_ids=tuple(dict.fromkeys((*(params.stop_token_ids or ()), *ends))),
            n=params.n,
            logit_bias=tuple(biases.items()),
            allowed_token_ids=tuple(dict.fromkeys(params.allowed_token_ids or ())),
            bad_words=self._prompts.bad_words(params.bad_words or ()),
            logprobs=self._num_told(params.logprobs),
            prompt_logprobs=self._num_told(params.prompt_logprobs),
            pooling=request.pooling,
            grammar="" if structure is None else self._grammar(structure),
        )

    def _check_ids(self, params: SamplingParams, biased: list[int]) -> None:
        self._prompts.check_ids(params.stop_token_ids or (), "stop_token_ids")
        self._prompts.check_ids(params.allowed_token_ids or (), "allowed_token_ids")
        self._prompts.check_ids(biased, "logit_bias")

    def _num_told(self, asked: int | None) -> int | None:
        return self._prompts.tokenizer.vocab_size if asked == -1 else asked

    def _grammar(self, structure: StructuredOutputsParams) -> str:
        """The source of a grammar, compiled once to see that it can be."""
        given = {name: value for name, value in asdict(structure).items() if value is not None}
        constraint = validated(StructuredOutputs, given).constraint("structured_outputs.")
        text = GrammarText({})
        source = text.source(constraint.rule(text))
        try:
            self._grammars.compile(source)
        except GrammarError as error:
            raise InvalidArgumentError(
                f"{constraint.param} cannot be enforced: {error}", param=constraint.param
            ) from error
        return source
