"""The offline API on the demo model."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize as normalized
from transformers import LlamaForCausalLM

from loadtest.transformers_peer import generate
from pagestream import LLM, BeamSearchParams, PoolingParams, SamplingParams, StructuredOutputsParams
from pagestream.offline.generation_config import recommended_parameters
from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError, ConfigurationError, InvalidRequestError

CHAT = [{"role": "user", "content": "Name three colours."}]
TOOL = {
    "type": "function",
    "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}},
}
GREEDY = SamplingParams(temperature=0, max_tokens=12)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("demo", max_model_len=512, kv_cache_memory_bytes=100 << 20, max_num_seqs=16, num_threads=1)


@pytest.mark.model
def test_the_readmes_snippet_works(llm: LLM) -> None:
    outputs = llm.generate(["Hello, my name is", "The capital of France is"], SamplingParams(max_tokens=8))
    for output in outputs:
        assert output.outputs[0].text
        speed = len(output.outputs[0].token_ids) / output.metrics.finished_time
        assert speed == output.metrics.tokens_per_second > 0


@pytest.mark.model
def test_greedy_tokens_are_those_of_transformers(llm: LLM, demo_oracle: LlamaForCausalLM) -> None:
    prompt = [504, 3575, 282, 4649, 314]
    (output,) = llm.generate(prompt, GREEDY, use_tqdm=False)
    assert [list(output.outputs[0].token_ids)] == generate(demo_oracle, [prompt], max_tokens=12, ignore_eos=False)


@pytest.mark.model
def test_beams_are_those_of_transformers(llm: LLM, demo_oracle: LlamaForCausalLM) -> None:
    prompts = [[6403, 1980, 253, 655], [504, 1450, 970, 288, 835, 314]]
    outputs = llm.beam_search(prompts, BeamSearchParams(beam_width=3, max_tokens=4, ignore_eos=True))
    for prompt, output in zip(prompts, outputs, strict=True):
        theirs: Any = demo_oracle.generate(  # type: ignore[operator]
            torch.tensor([prompt]), num_beams=3, num_return_sequences=3, max_new_tokens=4, do_sample=False,
            eos_token_id=None, pad_token_id=0, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        assert [sequence.tokens for sequence in output.sequences] == theirs.sequences.tolist()
        scores = [sequence.cum_logprob / 4 for sequence in output.sequences]
        assert scores == pytest.approx(theirs.sequences_scores.tolist(), abs=1e-3)
        assert all(len(sequence.logprobs) == 4 for sequence in output.sequences)


@pytest.mark.model
def test_a_chat_is_rendered_as_transformers_does(llm: LLM) -> None:
    tokenizer: Any = llm.get_tokenizer()
    template = "{{ messages[0].content }}, {{ tone }}: {% if add_generation_prompt %}>{% endif %}"
    cases: list[tuple[list[dict[str, str]], dict[str, Any]]] = [
        (CHAT, {}),
        (CHAT, {"add_generation_prompt": False}),
        ([*CHAT, {"role": "assistant", "content": "Red,"}], {"continue_final_message": True}),
        (CHAT, {"chat_template": "{{ tools | tojson }}", "tools": [TOOL]}),
        (CHAT, {"chat_template": template, "chat_template_kwargs": {"tone": "loud"}}),
    ]
    for messages, given in cases:
        flags = {"add_generation_prompt": not given.get("continue_final_message", False)} | given
        theirs = {name: value for name, value in flags.items() if name != "chat_template_kwargs"}
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, **theirs, **flags.get("chat_template_kwargs", {})
        )
        (output,) = llm.chat(messages, SamplingParams(max_tokens=1), use_tqdm=False, **flags)
        assert output.prompt == text
        assert output.prompt_token_ids == tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.model
def test_several_conversations_are_answered_together(llm: LLM) -> None:
    alone = [llm.chat([{"role": "user", "content": text}], GREEDY, use_tqdm=False)[0] for text in ("Hi.", "Why?")]
    together = llm.chat([[{"role": "user", "content": text}] for text in ("Hi.", "Why?")], GREEDY, use_tqdm=False)
    assert [output.outputs[0].text for output in together] == [output.outputs[0].text for output in alone]


@pytest.mark.model
def test_what_is_enqueued_runs_with_the_next_call_and_is_the_same(llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=6)
    messages = [{"role": "user", "content": "Who are you?"}]
    expected = [*llm.generate(["One, two,"], params, use_tqdm=False), *llm.chat(messages, params, use_tqdm=False)]
    names = [*llm.enqueue("One, two,", params), *llm.enqueue_chat(messages, params, priority=1)]
    assert not llm.reset_prefix_cache()
    llm.generate("x", params, use_tqdm=False)
    outputs = llm.wait_for_completion(use_tqdm=False)
    assert [output.request_id for output in outputs] == names
    assert [output.outputs[0].text for output in outputs] == [output.outputs[0].text for output in expected]
    assert llm.wait_for_completion(use_tqdm=False) == []
    assert llm.reset_prefix_cache()


@pytest.mark.model
def test_each_prompt_may_have_its_own_parameters(llm: LLM) -> None:
    lengths = (3, 7)
    outputs = llm.generate(["a", "b"], [SamplingParams(max_tokens=length) for length in lengths], use_tqdm=False)
    assert tuple(len(output.outputs[0].token_ids) for output in outputs) == lengths
    with pytest.raises(InvalidRequestError, match="sampling_params has 1 items for 2 prompts"):
        llm.generate(["a", "b"], [SamplingParams()], use_tqdm=False)
    with pytest.raises(InvalidRequestError, match=r"messages\[0\]\.role"):
        llm.chat([{"role": "wizard", "content": "x"}], use_tqdm=False)


@pytest.mark.model
def test_a_seed_decides_and_else_the_models_own(llm: LLM) -> None:
    def sample(**params: Any) -> list[tuple[int, ...]]:
        sampling = SamplingParams(temperature=1.5, max_tokens=8, **params)
        return [tuple(output.outputs[0].token_ids) for output in llm.generate(["a", "a"], sampling, use_tqdm=False)]

    assert len(set(sample(seed=5) + sample(seed=5))) == 1
    assert len(set(sample() + sample())) == 4


@pytest.mark.model
def test_without_parameters_the_defaults_hold(llm: LLM) -> None:
    assert llm.get_default_sampling_params() == SamplingParams()
    assert len(llm.generate("x", use_tqdm=False)[0].outputs[0].token_ids) <= 16


def test_the_models_makers_may_recommend_parameters(tmp_path: Path) -> None:
    checkpoint = Checkpoint("some", tmp_path, "huggingface")
    assert recommended_parameters(checkpoint) == {}
    config = tmp_path / "generation_config.json"
    config.write_text('{"temperature": 0.6, "top_k": 20, "max_new_tokens": 99, "eos_token_id": 2, "min_p": null}')
    assert recommended_parameters(checkpoint) == {"temperature": 0.6, "top_k": 20, "max_tokens": 99}
    config.write_text("[1]")
    with pytest.raises(CheckpointError, match="holds a list; expected an object"):
        recommended_parameters(checkpoint)


@pytest.mark.model
def test_embeddings_are_pooled_last_states_of_transformers(llm: LLM, demo_oracle: LlamaForCausalLM) -> None:
    texts = ["The sea is blue.", "A cat."]
    ids = [llm.get_tokenizer()(text).input_ids for text in texts]
    with torch.inference_mode():
        states = [demo_oracle.model(torch.tensor([tokens])).last_hidden_state[0] for tokens in ids]
    theirs = {"last": [state[-1] for state in states], "mean": [state.mean(0) for state in states]}
    for pooling, vectors in theirs.items():
        raw = llm.encode(texts, PoolingParams(pooling=pooling, normalize=False), use_tqdm=False)  # type: ignore[arg-type]
        short = llm.embed(ids, PoolingParams(pooling=pooling, dimensions=64), use_tqdm=False)  # type: ignore[arg-type]
        for vector, ours, unit in zip(vectors, raw, short, strict=True):
            assert torch.allclose(ours.outputs.data, vector, atol=1e-3)
            assert unit.outputs.hidden_size == 64
            assert torch.allclose(torch.tensor(unit.outputs.embedding), normalized(vector[:64], dim=0), atol=1e-3)
    with pytest.raises(InvalidRequestError, match="'dimensions' is 9999, more than the 576 of this model"):
        llm.embed("x", PoolingParams(dimensions=9999), use_tqdm=False)
    with pytest.raises(ValueError, match="pooling is 'max', but must be 'last' or 'mean'"):
        PoolingParams(pooling="max")  # type: ignore[arg-type]


@pytest.mark.model
def test_outputs_look_as_they_must(llm: LLM) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}}, "required": ["name"]}
    wanted = [
        StructuredOutputsParams(json=schema, disable_additional_properties=True),
        StructuredOutputsParams(regex=r"[0-9]{3}-[a-f]{2}"),
        StructuredOutputsParams(choice=["left", "right"]),
        StructuredOutputsParams(grammar='start: "yes" | "no"'),
    ]
    params = [SamplingParams(temperature=1.0, max_tokens=48, structured_outputs=structure) for structure in wanted]
    texts = [output.outputs[0].text for output in llm.generate(["Write:"] * 4, params, use_tqdm=False)]
    assert len(json.loads(texts[0])["name"]) <= 9
    assert re.fullmatch(r"[0-9]{3}-[a-f]{2}", texts[1])
    assert texts[2] in {"left", "right"}
    assert texts[3] in {"yes", "no"}
    for wrong, reason in (
        (StructuredOutputsParams(), "'structured_outputs' takes one of 'json', 'regex'"),
        (StructuredOutputsParams(regex="(", choice=["a"]), "got 'regex' and 'choice'"),
        (StructuredOutputsParams(grammar="start: ("), r"structured_outputs\.grammar cannot be enforced"),
    ):
        with pytest.raises(InvalidRequestError, match=reason):
            llm.generate("x", SamplingParams(structured_outputs=wrong), use_tqdm=False)


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ({"max_modle_len": 5}, "LLM.. takes no argument 'max_modle_len'; did you mean 'max_model_len'"),
        ({"frobnicate": 5}, "LLM.. takes no argument 'frobnicate'; it takes .*max_num_seqs"),
        ({"speculative_config": {"method": "ngram"}}, "LLM.. does not serve speculative_config, got .*; leave it out"),
        ({"tensor_parallel_size": 2}, "LLM.. serves tensor_parallel_size=1 only, not 2; leave it out"),
    ],
)
def test_an_argument_that_is_not_served_is_a_type_error(argument: dict[str, Any], reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        LLM("demo", trust_remote_code=True, enforce_eager=False, **argument)


def test_a_wrong_setting_names_itself() -> None:
    with pytest.raises(ConfigurationError, match="--max-num-seqs is 0"):
        LLM("demo", max_num_seqs=0)
    with pytest.raises(CheckpointError, match="'/nowhere' does not exist"):
        LLM("/nowhere")


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = "import sys, pagestream; pagestream.SamplingParams; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "fastapi", "redis"} & set(loaded)
    assert "pagestream.offline.sampling_params" in loaded
