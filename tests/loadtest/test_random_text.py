import dataclasses

import pytest

from gateway.tokenizers.tokenizer import Tokenizer
from loadtest.random_text import RandomText
from loadtest.tokenizer_source import load_tokenizer
from shared.errors import ConfigurationError


@pytest.mark.model
@pytest.mark.parametrize("num_tokens", [0, 1, 2, 17, 128, 1024])
def test_text_has_as_many_tokens_as_wanted(demo_tokenizer: Tokenizer, num_tokens: int) -> None:
    texts = RandomText(demo_tokenizer, seed=0)

    for _ in range(20):
        assert len(demo_tokenizer.encode(texts.of(num_tokens), add_special_tokens=False)) == num_tokens


@pytest.mark.model
def test_texts_joined_have_the_tokens_of_both(demo_tokenizer: Tokenizer) -> None:
    texts = RandomText(demo_tokenizer, seed=0)

    assert texts.count(texts.of(100) + texts.of(28)) == 128


def test_a_seed_gives_the_same_texts_again(byte_tokenizer: Tokenizer) -> None:
    first, again, other = (RandomText(byte_tokenizer, seed).of(50) for seed in (1, 1, 2))

    assert first == again != other


def test_lengths_stay_within_the_range_and_reach_both_ends(byte_tokenizer: Tokenizer) -> None:
    texts = RandomText(byte_tokenizer, seed=0)
    lengths = {texts.length_around(10, 0.25) for _ in range(500)}

    assert lengths == set(range(7, 14))
    assert texts.length_around(10, 0.0) == 10


def test_a_vocabulary_without_letters_is_refused(byte_tokenizer: Tokenizer) -> None:
    class Wordless(Tokenizer):
        def __init__(self) -> None:
            self.vocabulary = dataclasses.replace(byte_tokenizer.vocabulary, token_bytes=(b"1", b"2"))

    with pytest.raises(ConfigurationError, match="no words"):
        RandomText(Wordless(), seed=0)


def test_a_tokenizer_that_is_not_there_names_the_flag() -> None:
    with pytest.raises(ConfigurationError, match=r"no tokenizer '/nowhere.gguf': .* give --tokenizer"):
        load_tokenizer("/nowhere.gguf")
