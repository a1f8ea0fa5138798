"""From inputs to vectors: each is a request of the pool that wants no output, only what its prompt becomes."""

from collections.abc import Callable, Sequence
from typing import Final, Literal

from gateway.completions.completion import CompletionStarter
from gateway.completions.submission import PreparedPrompt, Submission
from gateway.embeddings.body import EmbeddingBody, EmbeddingList, EmbeddingObject, EmbeddingUsage
from gateway.embeddings.vectors import finished
from gateway.protocol.errors import GenerationError
from gateway.protocol.openai_requests import Prompt
from gateway.text.choice_text import TextRules
from gateway.tokenizers.prompt_tokens import PromptTokenizer
from shared.errors import InvalidRequestError, ServiceUnavailableError
from shared.sampling import Pooling, SamplingParams

_INPUTS_AT_ONCE: Final = 64
"""Inputs of one call that are in the pool at a time."""

_POOLINGS: Final = {"last": Pooling.LAST, "mean": Pooling.MEAN}


class EmbeddingService:
    """Makes embeddings.

    Args:
        prompts: Turns texts into tokens.
        completions: Sends requests.
        max_model_len: Tokens of a prompt and the one token that its last step samples; None while nobody knows.
        pooling: Where the request does not say.
    """

    def __init__(
        self,
        prompts: PromptTokenizer,
        completions: CompletionStarter,
        max_model_len: Callable[[], int | None],
        *,
        pooling: Literal["last", "mean"],
    ) -> None:
        self._prompts = prompts
        self._completions = completions
        self._max_model_len = max_model_len
        self._pooling = pooling

    async def embed(self, body: EmbeddingBody, name: str, *, api_key_id: str = "") -> EmbeddingList:
        """The vectors of all inputs.

        Args:
            body: What is wanted.
            name: Of the call, new.
            api_key_id: Whose usage it is.

        Raises:
            InvalidRequestError: an input does not fit the vocabulary or the context, or has too few dimensions.
            QueueFullError: the pool is full.
        """
        prompts = [await self._tokens(prompt, body) for prompt in body.input]
        data: list[EmbeddingObject] = []
        for start in range(0, len(prompts), _INPUTS_AT_ONCE):
            part = self._submission(prompts[start : start + _INPUTS_AT_ONCE], body, f"{name}-{start}")
            for vector in await self._vectors(part._replace(api_key_id=api_key_id)):
                embedding = finished(vector, body.dimensions, body.encoding_format)
                data.append(EmbeddingObject(len(data), embedding))
        num_tokens = sum(map(len, prompts))
        return EmbeddingList(data, body.model, EmbeddingUsage(num_tokens, num_tokens))

    async def _tokens(self, prompt: Prompt, body: EmbeddingBody) -> Sequence[int]:
        if isinstance(prompt, str):
            token_ids = await self._prompts.text(prompt, add_special_tokens=body.add_special_tokens)
        else:
            self._prompts.check_ids(prompt, "input")
            token_ids = prompt
        context = self._max_model_len()
        if context is None:
            raise ServiceUnavailableError("no worker has told the model's context length yet; try again")
        if not token_ids:
            raise InvalidRequestError("'input' is empty", param="input")
        if len(token_ids) >= context:
            raise InvalidRequestError(
                f"This model's maximum input is {context - 1} tokens. However, you sent {len(token_ids)} tokens. "
                "Please reduce the length of the input.",
                param="input",
                code="context_length_exceeded",
            )
        return token_ids

    def _submission(self, prompts: Sequence[Sequence[int]], body: EmbeddingBody, name: str) -> Submission:
        sampling = SamplingParams(temperature=0.0, max_tokens=1, pooling=_POOLINGS[body.pooling or self._pooling])
        return Submission(
            name,
            tuple(PreparedPrompt(token_ids, sampling) for token_ids in prompts),
            TextRules(),
            is_silent=True,
            priority=body.priority,
            cache_salt=body.cache_salt,
        )

    async def _vectors(self, submission: Submission) -> list[bytes]:
        completion = await self._completions.start(submission)
        try:
            await completion.collect()
            found = [vector for vector in completion.embeddings if vector is not None]
        finally:
            completion.close()
        if len(found) < len(submission.prompts):
            raise GenerationError("a worker of this pool makes no embeddings; all must be of this version")
        return found
