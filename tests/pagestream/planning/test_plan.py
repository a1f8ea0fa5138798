import json

import pytest
import torch

from gpu_worker.kv_cache import bytes_per_block
from pagestream.cli import main
from pagestream.planning.memory import KV_FORMATS, WEIGHT_FORMATS, Gpu, Load, fewest_gpus, fit
from pagestream.planning.model_source import find_shape
from pagestream.planning.plan import make_plan
from shared.errors import ConfigurationError
from shared.model_config import ModelConfig

GIB = 2**30
GPU = Gpu(80 * GIB, 0.92)
LLAMA3_70B = find_shape("Llama-3-70B")


def load(context: int = 4096, num_sequences: int = 1, kv_cache_dtype: str = "auto") -> Load:
    return Load(context=context, num_sequences=num_sequences, block_size=16, kv_format=KV_FORMATS[kv_cache_dtype])


def test_a_request_of_llama_3_70b_takes_a_gib_and_a_quarter_at_4096_tokens() -> None:
    assert load().kv_bytes_per_token(LLAMA3_70B) == 320 * 1024
    assert load().kv_bytes_per_request(LLAMA3_70B) == 1.25 * GIB
    assert load(num_sequences=32).kv_bytes_per_batch(LLAMA3_70B) == 40 * GIB


@pytest.mark.parametrize(("weights", "num_gpus"), [("16 bit", 2), ("4 bit", 1)])
def test_llama_3_70b_needs_two_gpus_of_80_gb_at_16_bit_and_one_at_4(weights: str, num_gpus: int) -> None:
    plan = make_plan("Llama-3-70B", LLAMA3_70B, load(), GPU, kv_cache_dtype="auto")
    (row,) = [row for row in plan.weights if row.weights == weights]
    assert row.fit is not None
    assert row.fit.num_gpus == num_gpus


def test_weights_of_llama_3_70b_take_as_much_as_the_files_people_download() -> None:
    gigabytes = {weights.name: weights.num_bytes(LLAMA3_70B) / 1e9 for weights in WEIGHT_FORMATS}
    assert gigabytes["16 bit"] == pytest.approx(141.1, abs=0.1)
    assert gigabytes["4 bit"] == pytest.approx(39.8, abs=0.1)  # the AWQ checkpoints of the hub


def test_queries_share_keys_and_values() -> None:
    without_sharing = find_shape("Llama-2-7b")
    assert load().kv_bytes_per_token(without_sharing) == 2 * 32 * 32 * 128 * 2
    assert load().kv_bytes_per_token(find_shape("Llama-3-8B")) == 2 * 32 * 8 * 128 * 2


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16), ("int8", torch.int8)],
)
def test_a_block_is_as_large_as_the_workers(name: str, dtype: torch.dtype) -> None:
    config = ModelConfig.from_huggingface(
        {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
            "max_position_embeddings": 8192,
        }
    )
    ours = 16 * load(kv_cache_dtype=name).kv_bytes_per_token(LLAMA3_70B)
    assert ours == bytes_per_block(config, block_size=16, dtype=dtype)


def test_blocks_and_sequences_are_what_is_left_beside_the_weights() -> None:
    found = fit(LLAMA3_70B, 60 * GIB, load(context=100), Gpu(100 * GIB, 0.8), num_gpus=2)
    assert found.cache_bytes == 2 * 50 * GIB
    assert found.num_blocks == 50 * GIB // (160 * 1024 * 16)
    assert found.num_sequences == found.num_blocks // 7
    assert fit(LLAMA3_70B, 300 * GIB, load(), GPU, num_gpus=1).num_blocks == 0


def test_beyond_one_key_value_head_a_gpu_more_gpus_hold_no_more_tokens() -> None:
    per_gpu = [load().kv_bytes_per_token(LLAMA3_70B, num_gpus=num_gpus) for num_gpus in (1, 2, 8, 16)]
    assert per_gpu == [320 * 1024, 160 * 1024, 40 * 1024, 40 * 1024]


def test_only_numbers_of_gpus_that_divide_the_heads_count() -> None:
    small = Gpu(24 * GIB, 0.92)
    found = fewest_gpus(LLAMA3_70B, 132 * GIB, load(), small)
    assert found is not None
    assert found.num_gpus == 8  # seven would have the memory
    assert fewest_gpus(LLAMA3_70B, 132 * GIB, load(), Gpu(GIB, 0.92)) is None
    with pytest.raises(ConfigurationError, match="--tensor-parallel-size 3 does not divide 64 attention heads"):
        make_plan("x", LLAMA3_70B, load(), GPU, kv_cache_dtype="auto", num_gpus=3)


def test_a_context_beyond_the_models_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--max-model-len 9000 is more than the model's 8192 tokens"):
        make_plan("x", LLAMA3_70B, load(context=9000), GPU, kv_cache_dtype="auto")


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "Llama-3-70B"]) == 0
    printed = capsys.readouterr().out
    assert "2 x 80 layers x 8 heads x (128 x 2) bytes = 320 KiB a token" in printed
    assert "1.25 GiB a request of 4,096 tokens" in printed
    rows = {tuple(line.split()[:2]): line.split()[4] for line in printed.splitlines() if " bit " in line}
    assert rows == {("16", "bit"): "2", ("8", "bit"): "1", ("4", "bit"): "1"}


def test_the_command_prints_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    flags = (
        "--max-model-len",
        "2K",
        "--max-num-seqs",
        "8",
        "--kv-cache-dtype",
        "int8",
        "--gpu-memory",
        "24G",
        "-tp",
        "4",
    )
    assert main(["plan", "Llama-3-8B", *flags, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["kv_bytes_per_token"] == 2 * 32 * 8 * (128 + 4)
    assert plan["kv_bytes_per_batch"] == plan["kv_bytes_per_token"] * 2048 * 8
    assert {row["weights"] for row in plan["weights"]} == {"16 bit", "8 bit", "4 bit"}
    assert all(row["fit"]["num_gpus"] == 4 for row in plan["weights"])


def test_a_context_shorter_than_the_default_is_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "TinyLlama-1.1B", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["max_model_len"] == 2048
