"""Outputs of random logits follow their grammars, whatever else their requests ask for and wherever they move."""

import json
import re

import numpy as np
import pytest
import torch

from gpu_worker.logits_processors.grammar import GrammarMask
from gpu_worker.logits_processors.pipeline import LogitsPipeline, standard_processors
from shared.grammar import GrammarCompiler
from shared.sampling import SamplingParams
from tests.gpu_worker.transcript import admit, compute
from tests.small_tokenizer import EOS, small_tokenizer

TOKENIZER = small_tokenizer()
END = TOKENIZER.token_to_id(EOS)
VOCABULARY = TOKENIZER.get_vocab_size() + 7
"""Models have logits for more tokens than there are."""
PROMPT = [1, 2, 3]
POINT = 'start: %json {"type": "object", "properties": {"name": {"enum": ["in", "the"]}, "n": {"type": "integer", \
"minimum": 0, "maximum": 999}}, "required": ["name", "n"], "additionalProperties": false, \
"x-guidance": {"whitespace_pattern": " ?"}}'
COMPILER = GrammarCompiler(TOKENIZER.to_str, [END])


class Rows:
    """Sequences that share a pipeline, each with its logits of every step."""

    def __init__(self) -> None:
        self.mask = GrammarMask(COMPILER, VOCABULARY)
        self._pipeline = LogitsPipeline([*standard_processors(VOCABULARY), self.mask], max_num_seqs=8)

    def admit(self, slot: int, sampling: SamplingParams, output: list[int]) -> None:
        self._pipeline.apply(
            compute({}, admitted=[admit(slot, PROMPT + output, [0], num_prompt=len(PROMPT), sampling=sampling)])
        )

    def release(self, slot: int) -> None:
        self._pipeline.apply(compute({}, released=[slot]))

    def logits(self, slots: list[int], seed: int) -> torch.Tensor:
        logits = torch.randn(len(slots), VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3
        self._pipeline.process(logits, np.array(slots))
        return logits

    def step(self, slot: int, seed: int) -> int:
        logits = self.logits([slot], seed)
        assert bool(torch.isfinite(logits).any())
        token = int(logits[0].argmax())
        self._pipeline.commit(slot, token)
        return token

    def output(self, slot: int, *, limit: int = 60) -> list[int]:
        tokens = list[int]()
        while len(tokens) < limit and not self.mask.is_complete(slot):
            tokens.append(self.step(slot, 100 * slot + len(tokens)))
            if tokens[-1] == END:
                break
        return tokens


def sampling(grammar: str, **others: object) -> SamplingParams:
    return SamplingParams(grammar=grammar, stop_token_ids=(END,), **others)  # type: ignore[arg-type]


OTHERS: dict[str, dict[str, object]] = {
    "nothing": {},
    "min_tokens": {"min_tokens": 500},
    "bad words": {"bad_words": tuple((token,) for token in TOKENIZER.encode('"{}').ids)},
    "allowed": {"allowed_token_ids": (70, 71, 72)},
    "penalties": {"presence_penalty": 2.0, "frequency_penalty": 2.0, "repetition_penalty": 3.0},
    "bias": {"logit_bias": ((TOKENIZER.encode("}").ids[0], -100.0), (END, 100.0))},
}


@pytest.mark.parametrize("others", OTHERS.values(), ids=list(OTHERS))
@pytest.mark.parametrize("slot", range(4))
def test_an_output_follows_its_grammar_whatever_else_is_asked(others: dict[str, object], slot: int) -> None:
    rows = Rows()
    rows.admit(slot, sampling(POINT, **others), [])
    value = json.loads(TOKENIZER.decode(rows.output(slot)))
    assert value["name"] in {"in", "the"}
    assert 0 <= value["n"] <= 999
    assert rows.mask.is_complete(slot)


def test_an_output_that_may_go_on_ends_by_a_stop_token_where_it_may() -> None:
    rows = Rows()
    for slot in range(8):
        rows.admit(slot, sampling("start: /a{2}(bb)*/"), [])
        output = rows.output(slot, limit=300)
        assert output[-1] == END
        assert re.fullmatch("a{2}(bb)*", TOKENIZER.decode(output))


@pytest.mark.parametrize("cut", range(0, 14, 3))
def test_a_sequence_that_moves_goes_on_as_if_it_had_stayed(cut: int) -> None:
    stays, moves, elsewhere = Rows(), Rows(), Rows()
    stays.admit(0, sampling(POINT), [])
    moves.admit(0, sampling(POINT), [])
    output = [moves.step(0, seed) for seed in range(cut)]
    elsewhere.admit(5, sampling(POINT), output)
    for seed in range(cut):
        stays.step(0, seed)
    for seed in range(cut, 40):
        if stays.mask.is_complete(0):
            break
        assert torch.equal(stays.logits([0], seed), elsewhere.logits([5], seed))
        assert stays.step(0, seed) == elsewhere.step(5, seed)
    assert elsewhere.mask.is_complete(5)


def test_rows_without_a_grammar_are_left_alone() -> None:
    rows = Rows()
    rows.admit(0, SamplingParams(), [])
    rows.admit(1, sampling(POINT), [])
    logits = rows.logits([0, 1], 3)
    untouched = torch.randn(2, VOCABULARY, generator=torch.Generator().manual_seed(3)) * 3
    assert torch.equal(logits[0], untouched[0])
    finite = torch.isfinite(logits[1])
    assert 0 < int(finite.sum()) <= 2
    assert torch.equal(logits[1][finite], untouched[1][finite])


def test_a_grammar_that_cannot_be_followed_leaves_its_own_row_without_a_token() -> None:
    rows = Rows()
    rows.admit(0, sampling("start: nowhere"), [])
    rows.admit(1, sampling(POINT), [])
    rows.admit(2, sampling(POINT), TOKENIZER.encode("no JSON").ids)
    logits = rows.logits([0, 1, 2], 0)
    assert torch.isfinite(logits).any(-1).tolist() == [False, True, False]
    for slot in range(3):
        rows.release(slot)


def test_bad_numbers_stay_bad() -> None:
    rows = Rows()
    rows.admit(0, sampling(POINT, min_tokens=3), [])
    logits = torch.full((1, VOCABULARY), torch.nan)
    rows._pipeline.process(logits, np.array([0]))
    assert bool(logits.isnan().any())


def test_an_end_that_is_no_stop_token_completes_too() -> None:
    rows = Rows()
    rows.admit(0, SamplingParams(grammar="start: /a?/"), [])
    assert not rows.mask.is_complete(0)
    rows.logits([0], 0)
    rows._pipeline.commit(0, TOKENIZER.encode("a").ids[0])
    assert rows.mask.is_complete(0)
