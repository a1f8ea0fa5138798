import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tokenizers.tokenizer import Tokenizer
from loadtest.conversation import num_requests
from loadtest.datasets import make_conversations, warmup_prompts
from loadtest.random_text import RandomText
from loadtest.settings import Dataset
from shared.errors import ConfigurationError

SHAREGPT = [
    {"id": "a", "conversations": [{"from": "human", "value": "q" * n}, {"from": "gpt", "value": "a" * (n + 1)}]}
    for n in (3, 4, 10, 1024, 1025)
] + [{"conversations": [{"from": "human", "value": "alone"}]}]


@pytest.fixture
def sharegpt(tmp_path: Path) -> Path:
    path = tmp_path / "sharegpt.json"
    path.write_text(json.dumps(SHAREGPT))
    return path


def test_random_prompts_have_the_lengths_that_were_asked_for(texts: RandomText) -> None:
    settings = Dataset(random_input_len=20, random_output_len=7, random_prefix_len=5)
    conversations = make_conversations(settings, texts, 10)

    turns = [turn for conversation in conversations for turn in conversation]
    assert [(turn.num_tokens, turn.max_tokens) for turn in turns] == [(25, 7)] * 10
    assert len({turn.text for turn in turns}) == 10
    assert len({turn.text[:5] for turn in turns}) == 1


def test_general_lengths_win_over_those_of_a_dataset(texts: RandomText) -> None:
    for name in ("random", "multiturn"):
        settings = Dataset(dataset_name=name, input_len=9, output_len=3, multiturn_prefix_len=0)
        (conversation,) = make_conversations(settings, texts, 1)
        assert [(turn.num_tokens, turn.max_tokens) for turn in conversation] == [(9, 3)]


def test_random_lengths_vary_to_both_sides(texts: RandomText) -> None:
    settings = Dataset(random_input_len=10, random_output_len=10, random_range_ratio=0.5)
    turns = [conversation.turns[0] for conversation in make_conversations(settings, texts, 300)]

    assert {turn.num_tokens for turn in turns} == set(range(5, 16)) == {turn.max_tokens for turn in turns}


def test_prefixes_are_shared_evenly_and_in_random_order(texts: RandomText) -> None:
    settings = Dataset(
        dataset_name="prefix",
        prefix_repetition_num_prefixes=3,
        prefix_repetition_prefix_len=12,
        prefix_repetition_suffix_len=4,
    )
    prompts = [conversation.turns[0].text for conversation in make_conversations(settings, texts, 30)]

    assert sorted(Counter(prompt[:12] for prompt in prompts).values()) == [10, 10, 10]
    assert len({prompt[12:] for prompt in prompts}) == 30
    assert prompts[:3] != prompts[3:6]


def test_more_prefixes_than_prompts_are_refused(texts: RandomText) -> None:
    with pytest.raises(ConfigurationError, match="num-prefixes 10 is more than --num-prompts 9"):
        make_conversations(Dataset(dataset_name="prefix_repetition"), texts, 9)


@given(st.integers(1, 40), st.integers(1, 7))
def test_conversations_have_as_many_turns_as_there_are_prompts(
    byte_tokenizer: Tokenizer, num_prompts: int, num_turns: int
) -> None:
    settings = Dataset(dataset_name="multiturn", multiturn_num_turns=num_turns, multiturn_prefix_len=8)
    conversations = make_conversations(settings, RandomText(byte_tokenizer, seed=0), num_prompts)

    assert num_requests(conversations) == num_prompts
    assert all(len(conversation) == num_turns for conversation in conversations[:-1])
    assert len({conversation.turns[0].text[:8] for conversation in conversations}) == 1


def test_sharegpt_keeps_first_questions_of_bearable_length(texts: RandomText, sharegpt: Path) -> None:
    settings = Dataset(dataset_name="sharegpt", dataset_path=sharegpt)
    turns = [conversation.turns[0] for conversation in make_conversations(settings, texts, 3)]

    assert {(turn.num_tokens, turn.max_tokens) for turn in turns} == {(4, 5), (10, 11)}
    assert len(turns) == 3


def test_sharegpt_answers_may_all_have_one_length(texts: RandomText, sharegpt: Path) -> None:
    settings = Dataset(dataset_name="sharegpt", dataset_path=sharegpt, sharegpt_output_len=2)
    turns = [conversation.turns[0] for conversation in make_conversations(settings, texts, 3)]

    assert sorted((turn.num_tokens, turn.max_tokens) for turn in turns) == [(4, 2), (10, 2), (1024, 2)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        ("[", "is no ShareGPT file: Input data was truncated"),
        ("{}", "is no ShareGPT file: Expected `array`, got `object`"),
        ('[{"conversations": [{"from": "human"}]}]', "is no ShareGPT file: Object missing required field `value`"),
        ("[]", "has no conversation of two turns or more; it must look like"),
        ('[{"conversations": [{"value": "hi"}, {"value": "hi"}]}]', "has no conversation of 4 to 1024 prompt tokens"),
    ],
)
def test_a_file_that_is_no_sharegpt_says_so(texts: RandomText, tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "dataset.json"
    if content is not None:
        path.write_text(content)

    with pytest.raises(ConfigurationError, match=said):
        make_conversations(Dataset(dataset_name="sharegpt", dataset_path=path), texts, 1)


def test_sharegpt_needs_a_path_and_others_take_none(texts: RandomText, sharegpt: Path) -> None:
    with pytest.raises(ConfigurationError, match="needs --dataset-path"):
        make_conversations(Dataset(dataset_name="sharegpt"), texts, 1)
    with pytest.raises(ConfigurationError, match="--dataset-path is for --dataset-name sharegpt, not random"):
        make_conversations(Dataset(dataset_path=sharegpt), texts, 1)


def test_warm_up_prompts_are_as_large_as_the_first_and_share_nothing_with_it(byte_tokenizer: Tokenizer) -> None:
    settings = Dataset(dataset_name="prefix", prefix_repetition_num_prefixes=1)
    conversations = make_conversations(settings, RandomText(byte_tokenizer, seed=0), 4)
    (warmup,) = warmup_prompts(conversations, RandomText(byte_tokenizer, seed=1), 1)

    first, warm = conversations[0].turns[0], warmup.turns[0]
    assert (warm.num_tokens, warm.max_tokens) == (first.num_tokens, first.max_tokens)
    assert warm.text[:16] != first.text[:16]
