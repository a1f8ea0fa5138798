"""Tokenizers of single bytes with chat templates of several families, and what a grammar of the gateway's allows."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import numpy as np

from gateway.tokenizers.gguf_tokenizer import tokenizer_from_gguf
from gateway.tokenizers.tokenizer import Tokenizer
from shared.errors import GrammarError
from shared.grammar import GrammarCompiler
from tests.gateway.conftest import BYTE_METADATA, CHAT_TEMPLATE, EOS, Running, eventually, running_gateway
from tests.gateway.scripted_pool import STATUS, Answer

_SPECIAL = ("[TOOL_CALLS]", "[ARGS]")
THINKING_TEMPLATE = CHAT_TEMPLATE.replace("assistant\n'", "assistant\n<think>\n'")
QWEN_TEMPLATE = "{% if tools %}{{ tools | tojson }}<tool_call>{% endif %}" + CHAT_TEMPLATE
MISTRAL_TEMPLATE = "{% if tools %}{{ tools | tojson }}[TOOL_CALLS]{% endif %}" + CHAT_TEMPLATE
LLAMA_TEMPLATE = "{% if tools %}{{ tools | tojson }}<|python_tag|>{% endif %}" + CHAT_TEMPLATE


def tokenizer_with(template: str) -> Tokenizer:
    """Token i is byte i; then ChatML's marks, and two of Mistral's."""
    tokens = [*BYTE_METADATA["tokenizer.ggml.tokens"], *_SPECIAL]  # type: ignore[misc]
    kinds = [*BYTE_METADATA["tokenizer.ggml.token_type"], *[3] * len(_SPECIAL)]  # type: ignore[misc]
    changes = {"tokens": tokens, "token_type": kinds}
    metadata = BYTE_METADATA | {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    return tokenizer_from_gguf(metadata | {"tokenizer.chat_template": template})


def writes(tokenizer: Tokenizer, text: str) -> Answer:
    """Every choice says this, special tokens included, then ends."""
    tokens = [*tokenizer.encode(text, add_special_tokens=False), EOS]
    return lambda _submit, _choice, position: tokens[position]


@asynccontextmanager
async def roomy_gateway(tokenizer: Tokenizer, answer: Answer, **settings: object) -> AsyncIterator[Running]:
    """A gateway whose model has a context of 8,192 tokens."""
    async with running_gateway(tokenizer, answer, **settings) as gateway:
        gateway.pool.status = msgspec.structs.replace(STATUS, max_model_len=8192)

        async def is_known() -> bool:
            await gateway.app._monitor.refresh()
            return gateway.app._monitor.status == gateway.pool.status

        await eventually(is_known)
        yield gateway


def allows(tokenizer: Tokenizer, grammar: str, text: str) -> bool:
    """Whether a text as a whole follows a grammar."""
    state = GrammarCompiler(tokenizer.to_json, tokenizer.eos_token_ids).compile(grammar)
    try:
        for token in tokenizer.encode(text, add_special_tokens=False):
            state.allowed(np.zeros(-(-tokenizer.vocab_size // 32), np.uint32))
            state.accept([token])
    except GrammarError:
        return False
    return state.is_accepting
