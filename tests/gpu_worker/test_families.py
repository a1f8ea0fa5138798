"""Oracle: transformers' model of each family on the same weights, token by token."""

import pytest
import torch
from torch import Tensor

from gpu_worker.batch_state import BatchState
from gpu_worker.captured_steps import CapturedSteps
from gpu_worker.kv_cache import CacheGeometry, KVCache
from gpu_worker.models.decoder import Decoder
from gpu_worker.ops_selection import choose_ops
from gpu_worker.step_input import StepInput
from gpu_worker.weights import open_weights
from kernels.ops import CPU, REFERENCE, Ops
from shared.messages import StepPlan
from shared.model_config import ModelConfig
from tests.gpu_worker.families import FAMILIES, save
from tests.gpu_worker.transcript import admit, compute

CPU_DEVICE = torch.device("cpu")
TOKENS = [(7 * place + place * place) % 101 for place in range(60)]
NUM_PROMPT = 45
MAX_LEN = 90


class Ours:
    """A decoder whose steps give logits; captured where the ops can."""

    def __init__(self, checkpoint, ops: Ops, *, max_positions: int = MAX_LEN) -> None:
        config = ModelConfig.from_checkpoint(checkpoint)
        weights = open_weights(checkpoint, config, dtype=torch.float32, device=CPU_DEVICE)
        self.model = Decoder(config, weights, ops, max_positions=max_positions)
        geometry = CacheGeometry(block_size=16, num_blocks=16, max_model_len=MAX_LEN)
        self.cache = KVCache(config, geometry, ops, dtype=torch.float32, device=CPU_DEVICE)
        capture = ops.capture if self.model.can_be_captured else None
        self.steps = CapturedSteps(self.model, self.cache, capture, max_blocks=6)
        self.state = BatchState(
            max_num_seqs=3,
            max_model_len=MAX_LEN,
            max_num_batched_tokens=128,
            block_size=16,
            num_blocks=16,
            vocab_size=config.vocab_size,
        )

    def run(self, plan: StepPlan) -> dict[int, Tensor]:
        """The logits of each slot whose next token is chosen."""
        work = self.state.apply(plan)
        step = StepInput.build(self.state, work, device=CPU_DEVICE)
        hidden = self.steps.hidden_states(step).index_select(0, step.sampled_rows)
        logits = self.model.logits(hidden)
        self.state.advance(work)
        return dict(zip(step.sampled_slots.tolist(), logits, strict=True))

    def decode(self, slot: int, start: int) -> list[Tensor]:
        """The logits after each token that is forced upon a sequence of so many tokens."""
        found = []
        for token in TOKENS[start:]:
            self.state.commit(slot, token)
            found.append(self.run(compute({slot: 1}))[slot])
        return found


@pytest.fixture(scope="module")
def native() -> Ops:
    ops = choose_ops(CPU_DEVICE, block_size=16, head_dim=16)
    if ops is CPU:
        pytest.skip("no native library")
    return ops


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers_whole_in_chunks_and_after_prefix_hits(
    family: str, native: Ops, tmp_path
) -> None:
    checkpoint, oracle = save(tmp_path, *FAMILIES[family])
    prompt = TOKENS[:NUM_PROMPT]
    with torch.inference_mode():
        expected = oracle(torch.tensor([TOKENS])).logits[0]
        for ops in (native, CPU):
            ours = Ours(checkpoint, ops)
            whole = [ours.run(compute({0: NUM_PROMPT}, admitted=[admit(0, prompt, [9, 2, 7, 4])]))[0]]
            whole += ours.decode(0, NUM_PROMPT)
            hit = admit(1, prompt, [9, 2, 5, 3], num_computed=32)
            mixed = [ours.run(compute({1: 13}, admitted=[hit]))[1], *ours.decode(1, NUM_PROMPT)]
            chunked = admit(2, prompt, [1, 0, 11, 12])
            for start in range(0, NUM_PROMPT, 7):
                work = compute({2: min(7, NUM_PROMPT - start)}, admitted=[chunked] if start == 0 else [])
                last = ours.run(work)
            for found in (whole, mixed, [last[2]]):
                wanted = expected[NUM_PROMPT - 1 :][: len(found)]
                torch.testing.assert_close(torch.stack(found), wanted, atol=1e-4, rtol=1e-4)
            if ops is native:
                assert torch.equal(torch.stack(whole), torch.stack(mixed)), "bits depend on the prefix hit"
                assert torch.equal(whole[0], last[2]), "bits depend on the chunks"


@pytest.mark.parametrize("family", ["Gemma 2", "Qwen3-MoE"])
def test_a_sequences_bits_do_not_depend_on_the_batch(family: str, native: Ops, tmp_path) -> None:
    checkpoint, _ = save(tmp_path, *FAMILIES[family])
    with torch.inference_mode():
        alone = Ours(checkpoint, native)
        expected = [alone.run(compute({0: 45}, admitted=[admit(0, TOKENS[:45], [9, 2, 7, 4])]))[0]]
        expected += alone.decode(0, 45)[:3]
        ours = Ours(checkpoint, native)
        others = [admit(1, TOKENS[:20], [0, 1]), admit(2, TOKENS[3:40], [3, 5, 6])]
        ours.run(compute({1: 20, 2: 30}, admitted=others))
        found = [ours.run(compute({2: 7, 0: 45}, admitted=[admit(0, TOKENS[:45], [9, 2, 7, 4])]))[0]]
        for token in TOKENS[45:48]:
            for slot in (0, 1, 2):
                ours.state.commit(slot, token)
            found.append(ours.run(compute({2: 1, 0: 1, 1: 1}))[0])
    assert torch.equal(torch.stack(found), torch.stack(expected))


def test_longrope_stretches_where_longer_contexts_are_served(tmp_path) -> None:
    model_type, changes = FAMILIES["Phi-3, longrope"]
    checkpoint, oracle = save(tmp_path, model_type, changes | {"original_max_position_embeddings": 40})
    with torch.inference_mode():
        expected = oracle(torch.tensor([TOKENS[:50]])).logits[0, -1]
        ours = Ours(checkpoint, REFERENCE)
        found = ours.run(compute({0: 50}, admitted=[admit(0, TOKENS[:50], [9, 2, 7, 4])]))[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
