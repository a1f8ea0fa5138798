"""Oracle: transformers' model of each family on the same weights, token by token."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gpu_worker.batch_state import BatchState
from gpu_worker.captured_steps import CapturedSteps
from gpu_worker.kv_cache import CacheGeometry, KVCache
from gpu_worker.model_runner import ModelRunner
from gpu_worker.models.loading import load_model
from gpu_worker.models.transformers_model import TransformersModel
from gpu_worker.ops_selection import choose_ops
from gpu_worker.precision import Precision
from gpu_worker.quantization import Quantization
from gpu_worker.step_input import StepInput
from kernels.ops import CPU, REFERENCE, Ops
from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError
from shared.messages import StepPlan
from shared.model_config import ModelConfig
from tests.gpu_worker.families import FAMILIES, SIZES, save
from tests.gpu_worker.transcript import Transcript, admit, compute

CPU_DEVICE = torch.device("cpu")
TOKENS = [(7 * place + place * place) % 101 for place in range(60)]
NUM_PROMPT = 45
MAX_LEN = 90


class Ours:
    """A model whose steps give logits; captured where the ops can."""

    def __init__(self, checkpoint: Checkpoint, ops: Ops, *, max_positions: int = MAX_LEN) -> None:
        config = ModelConfig.from_checkpoint(checkpoint)
        precision = Precision(torch.float32, torch.float32, torch.float32)
        self.model, config, ops = load_model(
            checkpoint, config, ops, precision, CPU_DEVICE, max_positions=max_positions
        )
        geometry = CacheGeometry(block_size=16, num_blocks=16, max_model_len=MAX_LEN)
        self.cache = KVCache(config, geometry, ops, dtype=torch.float32, device=CPU_DEVICE)
        self.steps = CapturedSteps(self.model, self.cache, ops.capture, max_blocks=6, block_size=16, device=CPU_DEVICE)
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
        step = StepInput.build(self.state, work)
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
    family: str, native: Ops, tmp_path: Path
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


FALLBACKS: dict[str, tuple[str, dict[str, object]]] = {
    "GPT-2": ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": 101}),
    "Falcon": ("falcon", {"num_kv_heads": 1, "alibi": False, "multi_query": True, "head_dim": None}),
    "Falcon, ALiBi": ("falcon", {"num_kv_heads": 1, "alibi": True, "multi_query": True, "head_dim": None}),
    "Bloom": ("bloom", {"n_layer": 2, "n_head": 4, "head_dim": None, "num_key_value_heads": None}),
    "StableLM": ("stablelm", {"partial_rotary_factor": 0.5, "use_qkv_bias": True, "qk_layernorm": False}),
    "Cohere": ("cohere", {"logit_scale": 0.25}),
    "gpt-oss, sinks": ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16}),
}


@pytest.mark.parametrize("family", FALLBACKS)
def test_other_models_are_computed_by_transformers_on_the_paged_cache(family: str, native: Ops, tmp_path: Path) -> None:
    model_type, changes = FALLBACKS[family]
    checkpoint, oracle = save(tmp_path, model_type, changes)
    expects_pages = not family.startswith(("Falcon", "Bloom", "gpt-oss"))
    with torch.inference_mode():
        expected = oracle(torch.tensor([TOKENS])).logits[0]
        ours = Ours(checkpoint, native)
        assert isinstance(ours.model, TransformersModel)
        assert (ours.model.ops is native) == expects_pages
        prompt = TOKENS[:NUM_PROMPT]
        first = ours.run(compute({0: 30}, admitted=[admit(0, prompt, [9, 2, 7, 4])]))
        assert first == {}
        hit = admit(1, TOKENS[:40], [9, 5, 3], num_computed=16)
        both = ours.run(compute({0: 15, 1: 24}, admitted=[hit]))
        torch.testing.assert_close(both[0], expected[NUM_PROMPT - 1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(both[1], expected[39], atol=1e-4, rtol=1e-4)
        for place in range(5):
            ours.state.commit(0, TOKENS[NUM_PROMPT + place])
            ours.state.commit(1, TOKENS[40 + place])
            both = ours.run(compute({1: 1, 0: 1}))
            torch.testing.assert_close(both[0], expected[NUM_PROMPT + place], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(both[1], expected[40 + place], atol=1e-4, rtol=1e-4)


def test_what_cannot_be_served_is_named(native: Ops, tmp_path: Path) -> None:
    sizes = {"d_model": 64, "n_layer": 2, "vocab_size": 101, "state_size": 4}
    checkpoint, _ = save(tmp_path, "mamba", dict.fromkeys(SIZES) | sizes)
    with pytest.raises(CheckpointError, match="num_attention_heads is missing"):
        Ours(checkpoint, native)


@pytest.mark.parametrize("family", ["Gemma 2", "Qwen3-MoE"])
def test_a_sequences_bits_do_not_depend_on_the_batch(family: str, native: Ops, tmp_path: Path) -> None:
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


def test_longrope_stretches_where_longer_contexts_are_served(tmp_path: Path) -> None:
    model_type, changes = FAMILIES["Phi-3, longrope"]
    checkpoint, oracle = save(tmp_path, model_type, changes | {"original_max_position_embeddings": 40})
    with torch.inference_mode():
        expected = oracle(torch.tensor([TOKENS[:50]])).logits[0, -1]
        ours = Ours(checkpoint, REFERENCE)
        found = ours.run(compute({0: 50}, admitted=[admit(0, TOKENS[:50], [9, 2, 7, 4])]))[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["GPT-2", "Gemma 3", "Mixtral"])
def test_the_runner_serves_it(family: str, load: Callable[..., ModelRunner], tmp_path: Path) -> None:
    checkpoint, oracle = save(tmp_path, *(FAMILIES | FALLBACKS)[family])
    transcript = Transcript(load(checkpoint, max_model_len=64))
    transcript.run(compute({0: 20}, admitted=[admit(0, TOKENS[:20], [3, 1, 2])]))
    transcript.decode([0], 9)
    prompt = torch.tensor([TOKENS[:20]])
    mask = torch.ones_like(prompt)
    expected = oracle.generate(prompt, attention_mask=mask, max_new_tokens=10, do_sample=False, eos_token_id=None)
    assert transcript.tokens[0] == expected[0, 20:].tolist()


@pytest.mark.parametrize("quantization", list(Quantization))
@pytest.mark.parametrize("family", ["Phi-4-mini", "Gemma 3", "Mixtral"])
def test_rounded_weights_are_close(
    family: str, quantization: Quantization, native: Ops, load: Callable[..., ModelRunner], tmp_path: Path
) -> None:
    assert native.is_mixed_precision
    checkpoint, _ = save(tmp_path, *FAMILIES[family])
    exact, rounded = (
        load(checkpoint, max_model_len=64, quantization=given).log_likelihoods(TOKENS) for given in (None, quantization)
    )
    assert 0 < (exact - rounded).abs().mean() < 0.2 * exact.abs().mean()
