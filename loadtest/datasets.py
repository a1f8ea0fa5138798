"""The datasets: what the requests of a run ask. Each is a function of its settings and a seed."""

from itertools import chain, islice, repeat

from loadtest.conversation import Conversation, Turn
from loadtest.random_text import RandomText
from loadtest.settings import Dataset
from loadtest.sharegpt import read_sharegpt
from shared.errors import ConfigurationError

_SHAREGPT_MIN_TOKENS, _SHAREGPT_MAX_PROMPT_TOKENS, _SHAREGPT_MAX_TOKENS = 4, 1024, 2048
"""Bounds of what is kept of ShareGPT; those of `vllm bench serve`."""


def make_conversations(settings: Dataset, texts: RandomText, num_prompts: int) -> list[Conversation]:
    """As many requests as asked for, one per turn.

    Raises:
        ConfigurationError: the settings contradict each other, or the dataset's file is not what it should be.
    """
    if settings.dataset_path is not None and settings.dataset_name != "sharegpt":
        raise ConfigurationError(
            f"--dataset-path is for --dataset-name sharegpt, not {settings.dataset_name}; leave one of them out"
        )
    match settings.dataset_name:
        case "random":
            return random_prompts(settings, texts, num_prompts)
        case "sharegpt":
            return sharegpt_prompts(settings, texts, num_prompts)
        case "prefix" | "prefix_repetition":
            return prefix_prompts(settings, texts, num_prompts)
        case "multiturn":
            return multiturn_conversations(settings, texts, num_prompts)


def warmup_prompts(like: list[Conversation], texts: RandomText, num_prompts: int) -> list[Conversation]:
    """Random text of the first request's size: it warms a server, but not its prefix cache."""
    turn = like[0].turns[0]
    return [Conversation.of(texts.of(turn.num_tokens), turn.num_tokens, turn.max_tokens) for _ in range(num_prompts)]


def random_prompts(settings: Dataset, texts: RandomText, num_prompts: int) -> list[Conversation]:
    """Random text of a length around the one that was asked for, after a prefix that all share."""
    # The length asked for is what the server is to see, so that its special tokens come off it.
    input_len = max(0, _first(settings.input_len, settings.random_input_len) - texts.num_special_tokens)
    output_len = _first(settings.output_len, settings.random_output_len)
    ratio, prefix_len = settings.random_range_ratio, settings.random_prefix_len
    if input_len * (1 - ratio) + prefix_len < 1:
        raise ConfigurationError(f"--random-input-len {input_len} leaves no token to send; make it larger")
    prefix = texts.of(prefix_len)
    return [
        _prompt(texts, prefix, texts.length_around(input_len, ratio), texts.length_around(output_len, ratio))
        for _ in range(num_prompts)
    ]


def prefix_prompts(settings: Dataset, texts: RandomText, num_prompts: int) -> list[Conversation]:
    """Requests that share one of a few prefixes, as those of applications share a system prompt. In random order."""
    num_prefixes = settings.prefix_repetition_num_prefixes
    if num_prefixes > num_prompts:
        raise ConfigurationError(
            f"--prefix-repetition-num-prefixes {num_prefixes} is more than --num-prompts {num_prompts}; lower it"
        )
    suffix_len = _first(settings.input_len, settings.prefix_repetition_suffix_len)
    output_len = _first(settings.output_len, settings.prefix_repetition_output_len)
    prefixes = [texts.of(settings.prefix_repetition_prefix_len) for _ in range(num_prefixes)]
    shared = texts.shuffled(islice(chain.from_iterable(repeat(prefixes)), num_prompts))
    return [_prompt(texts, prefix, suffix_len, output_len) for prefix in shared]


def sharegpt_prompts(settings: Dataset, texts: RandomText, num_prompts: int) -> list[Conversation]:
    """First questions of people, in random order, each with as long an answer as it once got; repeated if too few."""
    wanted = settings.output_len if settings.output_len is not None else settings.sharegpt_output_len
    kept: list[Conversation] = []
    for question, answer in texts.shuffled(read_sharegpt(settings.dataset_path)):
        num_tokens = texts.count(question) + texts.num_special_tokens
        max_tokens = wanted if wanted is not None else texts.count(answer)
        is_long_enough = num_tokens >= _SHAREGPT_MIN_TOKENS and (
            wanted is not None or max_tokens >= _SHAREGPT_MIN_TOKENS
        )
        fits = num_tokens <= _SHAREGPT_MAX_PROMPT_TOKENS and num_tokens + max_tokens <= _SHAREGPT_MAX_TOKENS
        if is_long_enough and fits:
            kept.append(Conversation.of(question, num_tokens, max_tokens))
        if len(kept) == num_prompts:
            return kept
    if not kept:
        raise ConfigurationError(
            f"--dataset-path {settings.dataset_path} has no conversation of {_SHAREGPT_MIN_TOKENS} to "
            f"{_SHAREGPT_MAX_PROMPT_TOKENS} prompt tokens; use another file"
        )
    return list(islice(chain.from_iterable(repeat(kept)), num_prompts))


def multiturn_conversations(settings: Dataset, texts: RandomText, num_prompts: int) -> list[Conversation]:
    """Conversations of random text behind one shared opening; the last is shorter where the number asks for it."""
    num_turns = settings.multiturn_num_turns
    input_len = _first(settings.input_len, settings.multiturn_input_len)
    output_len = _first(settings.output_len, settings.multiturn_output_len)
    opening = texts.of(settings.multiturn_prefix_len)
    conversations = []
    for first in range(0, num_prompts, num_turns):
        turns: list[Turn] = []
        for turn in range(min(num_turns, num_prompts - first)):
            turns += _prompt(texts, "" if turn else opening, input_len, output_len)
        conversations.append(Conversation(tuple(turns)))
    return conversations


def _prompt(texts: RandomText, prefix: str, input_len: int, output_len: int) -> Conversation:
    text = prefix + texts.of(input_len)
    return Conversation.of(text, texts.count(text) + texts.num_special_tokens, output_len)


def _first(general: int | None, own: int) -> int:
    return own if general is None else general
