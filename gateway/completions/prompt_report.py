"""What is told of prompts: their tokens, their log-probabilities, and their text before the answer. Pure."""

from collections.abc import Mapping, Sequence

from gateway.shapes.shape import Prompt
from gateway.streaming.token_logprobs import ScoredToken, TokenLogprobs
from gateway.text.choice_text import TextDelta
from gateway.tokenizers.detokenizer import IncrementalDetokenizer
from gateway.tokenizers.vocabulary import Vocabulary


def prompt_of(token_ids: Sequence[int], told: Mapping[int, TokenLogprobs]) -> Prompt:
    """A prompt with what has been told of it.

    Args:
        token_ids: All of it.
        told: Log-probabilities by place, of all tokens but the first, or of none.
    """
    logprobs = [None, *(told[place] for place in range(1, len(token_ids)))] if told or len(token_ids) == 1 else []
    return Prompt(token_ids, logprobs)


def is_told(num_tokens: int, told: Mapping[int, TokenLogprobs]) -> bool:
    """Whether the log-probabilities of a prompt of so many tokens are all there."""
    return len(told) >= num_tokens - 1


def echo(choice: int, text: str, prompt: Prompt, vocabulary: Vocabulary) -> TextDelta:
    """The prompt as the beginning of a choice's text.

    Args:
        choice: Its number.
        text: The prompt's.
        prompt: With log-probabilities if they are to be shown.
        vocabulary: What each token stands for.
    """
    detokenizer = IncrementalDetokenizer(vocabulary, is_whole_text=True)
    scored, offset = [], 0
    for token_id, logprobs in zip(prompt.token_ids, prompt.logprobs, strict=False):
        scored.append(ScoredToken(token_id, offset, logprobs))
        offset += len(detokenizer.push([token_id]))
    return TextDelta(choice, text, scored=scored)
