"""Every parameter of the official client and every field of vLLM's is read, without effect by design, or refused."""

from collections.abc import Collection

import pytest
from openai.types import batch_create_params, completion_create_params, embedding_create_params, file_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params
from openai.types.shared.reasoning import Reasoning

from gateway.batches.batch_object import BatchBody
from gateway.embeddings.body import EmbeddingBody
from gateway.files.routes import FORM
from gateway.protocol.openai_requests import IGNORED_FIELDS, ChatCompletionBody, CompletionBody
from gateway.responses.body import EXTENSIONS, ReasoningConfig, ResponseBody

CHAT = ChatCompletionBody.model_fields.keys() | ChatCompletionBody.no_op_values.keys() | IGNORED_FIELDS
TEXT = CompletionBody.model_fields.keys() | CompletionBody.no_op_values.keys() | IGNORED_FIELDS
RESPONSE = ResponseBody.model_fields.keys() | ResponseBody.no_op_values.keys()
FILE = {name.partition("[")[0] for name in FORM["properties"]}

OF_VLLM = """
add_special_tokens allowed_token_ids bad_words cache_salt ec_transfer_params echo frequency_penalty ignore_eos
include_stop_str_in_output kv_transfer_params length_penalty logit_bias logprob_token_ids logprobs max_tokens min_p
min_tokens mm_payload model n presence_penalty priority prompt_logprobs repetition_detection repetition_penalty
request_id response_format return_mm_kwargs return_token_ids return_token_offsets return_tokens_as_token_ids
routed_experts_prompt_start seed session_id skip_special_tokens spaces_between_special_tokens stop stop_token_ids
stream stream_interval stream_options structured_outputs temperature thinking_token_budget top_k top_p
truncate_prompt_tokens truncation_side use_beam_search user vllm_xargs watermarking
"""
"""Of chats and texts alike, in 0.32."""

OF_VLLM_CHATS = """
add_generation_prompt chat_template chat_template_kwargs continue_final_message documents include_reasoning
max_completion_tokens media_io_kwargs messages mm_processor_kwargs parallel_tool_calls reasoning_effort
return_prompt_text tool_choice tools top_logprobs
"""

OF_VLLM_RESPONSES = """
background cache_salt chat_template_kwargs ec_transfer_params enable_response_messages frequency_penalty ignore_eos
include include_reasoning include_stop_str_in_output input instructions kv_transfer_params logit_bias
max_output_tokens max_tool_calls media_io_kwargs metadata min_p mm_payload mm_processor_kwargs model
parallel_tool_calls presence_penalty previous_input_messages previous_response_id priority prompt prompt_cache_key
reasoning repetition_penalty request_id return_mm_kwargs seed service_tier session_id skip_special_tokens stop
stop_token_ids store stream structured_outputs temperature text tool_choice tools top_k top_logprobs top_p truncation
user vllm_xargs watermarking
"""


@pytest.mark.parametrize(
    ("known", "schema"),
    [
        (CHAT, chat_create_params.CompletionCreateParamsBase),
        (TEXT, completion_create_params.CompletionCreateParamsBase),
        (RESPONSE, response_create_params.ResponseCreateParamsBase),
        (ReasoningConfig.model_fields.keys() | {"generate_summary"}, Reasoning),
        (EmbeddingBody.model_fields.keys(), embedding_create_params.EmbeddingCreateParams),
        (BatchBody.model_fields.keys(), batch_create_params.BatchCreateParams),
        (FILE, file_create_params.FileCreateParams),
    ],
    ids=["chat", "text", "response", "reasoning", "embedding", "batch", "file"],
)
def test_every_parameter_of_the_official_client_is_known(known: Collection[str], schema: type) -> None:
    assert schema.__annotations__.keys() - set(known) == set()


def test_every_field_of_vllms_is_known() -> None:
    of_both = set(OF_VLLM.split())
    assert not of_both - TEXT
    assert not of_both - CHAT
    assert not {"prompt", "prompt_embeds", "suffix"} - TEXT
    assert not set(OF_VLLM_CHATS.split()) - CHAT
    assert not set(OF_VLLM_RESPONSES.split()) - RESPONSE - EXTENSIONS - IGNORED_FIELDS
