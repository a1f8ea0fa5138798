import random
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models

from gateway.tokenizers.detokenizer import IncrementalDetokenizer
from gateway.tokenizers.gguf_tokenizer import tokenizer_from_gguf
from gateway.tokenizers.tokenizer import Tokenizer
from gateway.tokenizers.vocabulary import Vocabulary
from shared.errors import CheckpointError

SENTENCEPIECE_TOKENS = [
    "<unk>",
    "<s>",
    "</s>",
    *(f"<0x{byte:02X}>" for byte in range(256)),
    "\u2581",
    "\u2581a",
    "b",
    "日",
    "\u2581\u2581",
    "é",
]
SENTENCEPIECE_METADATA = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": SENTENCEPIECE_TOKENS,
    "tokenizer.ggml.scores": [0.0] * 259 + [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0],
    "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * 6,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
}
SENTENCEPIECE = tokenizer_from_gguf(SENTENCEPIECE_METADATA)
BYTES = Vocabulary(tuple(bytes([i]) for i in range(256)))


def in_pieces(
    vocabulary: Vocabulary, token_ids: Sequence[int], points: Iterable[int], *, is_whole_text: bool = False
) -> list[str]:
    detokenizer = IncrementalDetokenizer(vocabulary, is_whole_text=is_whole_text)
    points = sorted({0, len(token_ids), *(point % (len(token_ids) + 1) for point in points)})
    deltas = [detokenizer.push(token_ids[a:b]) for a, b in pairwise(points)]
    return [*deltas, detokenizer.flush()]


@given(st.lists(st.integers(0, 255)), st.lists(st.integers(0, 1000)))
def test_deltas_of_any_bytes_add_up_to_the_decoding_of_all_of_them(token_ids: list[int], points: list[int]) -> None:
    assert "".join(in_pieces(BYTES, token_ids, points)) == bytes(token_ids).decode(errors="replace")


@given(st.text(), st.lists(st.integers(0, 1000)))
def test_no_delta_holds_half_a_character(text: str, points: list[int]) -> None:
    deltas = in_pieces(BYTES, list(text.encode(errors="replace")), points)
    assert "".join(deltas) == text.encode(errors="replace").decode()
    assert deltas[-1] == ""


@given(st.lists(st.integers(0, len(SENTENCEPIECE_TOKENS) - 1)), st.lists(st.integers(0, 1000)), st.booleans())
def test_deltas_of_sentencepiece_tokens_add_up_however_they_are_split(
    token_ids: list[int], points: list[int], is_whole_text: bool
) -> None:
    whole = "".join(in_pieces(SENTENCEPIECE.vocabulary, token_ids, [], is_whole_text=is_whole_text))
    assert "".join(in_pieces(SENTENCEPIECE.vocabulary, token_ids, points, is_whole_text=is_whole_text)) == whole


@given(st.text(alphabet="ab 日é🎉\n"))
def test_sentencepiece_text_survives_the_round_trip(text: str) -> None:
    assert SENTENCEPIECE.decode(SENTENCEPIECE.encode(text)) == text


@given(st.text(alphabet="ab 日é🎉"))
def test_sentencepiece_decodes_as_its_library_does(text: str) -> None:
    ids = SENTENCEPIECE.encode(text)
    assert SENTENCEPIECE.decode(ids) == SENTENCEPIECE._backend.decode(ids, skip_special_tokens=True)


def test_a_message_loses_the_tokenizers_own_space_and_a_continuation_keeps_it() -> None:
    ids = [SENTENCEPIECE_TOKENS.index("\u2581a")]
    assert "".join(in_pieces(SENTENCEPIECE.vocabulary, ids, [], is_whole_text=True)) == "a"
    assert "".join(in_pieces(SENTENCEPIECE.vocabulary, ids, [], is_whole_text=False)) == " a"


def test_an_unfinished_character_becomes_one_replacement_at_the_end() -> None:
    detokenizer = IncrementalDetokenizer(BYTES)
    assert detokenizer.push("日".encode()[:2]) == ""
    assert detokenizer.flush() == "\ufffd"


def test_special_tokens_and_ids_beyond_the_vocabulary_show_nothing(byte_tokenizer: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(byte_tokenizer.vocabulary)
    assert detokenizer.push([0xC3, 256, 0xA9, 257, 100_000]) == "é"


def test_a_special_token_does_not_break_a_character_apart() -> None:
    rng = random.Random(0)
    ids = [token for byte in "日本🎉".encode() for token in [byte + 3, 1][: rng.randint(1, 2)]]
    assert "".join(in_pieces(SENTENCEPIECE.vocabulary, ids, range(100))) == "日本🎉"


def test_a_decoder_that_is_not_token_by_token_is_refused() -> None:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.decoder = decoders.CTC()
    with pytest.raises(CheckpointError, match="CTC"):
        Vocabulary.of(backend)
