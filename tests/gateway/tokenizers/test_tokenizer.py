import json
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gateway.tokenizers.chat_template import ChatTemplate
from gateway.tokenizers.gguf_tokenizer import tokenizer_from_gguf
from gateway.tokenizers.huggingface_tokenizer import tokenizer_from_directory
from gateway.tokenizers.tokenizer import Tokenizer
from gateway.tokenizers.tokenizer_loading import load_tokenizer
from shared.checkpoint import resolve
from shared.errors import CheckpointError, InvalidRequestError
from shared.model_config import ModelConfig
from tests.gateway.conftest import BYTE_METADATA, CHAT_TEMPLATE

BYTE_TOKENIZER = tokenizer_from_gguf(BYTE_METADATA)


@given(st.text())
def test_any_text_survives_the_round_trip(text: str) -> None:
    assert BYTE_TOKENIZER.decode(BYTE_TOKENIZER.encode(text)) == text.replace("<|im_start|>", "").replace(
        "<|im_end|>", ""
    )


def test_the_end_of_sequence_comes_from_the_file_and_the_caller_without_repeats() -> None:
    metadata = BYTE_METADATA | {"tokenizer.ggml.eot_token_id": 256}
    assert tokenizer_from_gguf(metadata, [257, 5]).eos_token_ids == (257, 256, 5)


@pytest.mark.parametrize("name", ["default", "gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_every_known_way_of_splitting_keeps_the_text(name: str) -> None:
    tokenizer = tokenizer_from_gguf(BYTE_METADATA | {"tokenizer.ggml.pre": name})
    text = "I'm  12345\n\n  naïve 日本語 🎉\t!?\r\n"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_digits_are_split_as_the_name_says() -> None:
    merges = {"tokenizer.ggml.merges": ["1 2", "12 3", "3 4"]}
    extra = {"tokenizer.ggml.tokens": [*BYTE_METADATA["tokenizer.ggml.tokens"], "12", "123", "34"]}
    encode = lambda name: tokenizer_from_gguf(BYTE_METADATA | merges | extra | {"tokenizer.ggml.pre": name}).encode  # noqa: E731
    one, two, three, four = b"1234"
    assert encode("smollm")("1234", add_special_tokens=False) == [one, two, three, four]
    assert encode("qwen2")("1234", add_special_tokens=False) == [one, two, three, four]
    assert encode("llama-bpe")("1234", add_special_tokens=False) == [259, four]
    assert encode("gpt-2")("1234", add_special_tokens=False) == [259, four]


def test_a_beginning_token_is_added_where_the_file_says_so() -> None:
    tokenizer = tokenizer_from_gguf(
        BYTE_METADATA | {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 256}
    )
    assert tokenizer.encode("a") == [256, 97]
    assert tokenizer.encode("a", add_special_tokens=False) == [97]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.pre": "martian"}, "tokenizer.ggml.pre is 'martian'"),
        ({"tokenizer.ggml.model": "bert"}, "tokenizer.ggml.model is 'bert'"),
        ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens is missing"),
        ({"tokenizer.ggml.merges": "x"}, "tokenizer.ggml.merges is a str"),
        ({"tokenizer.chat_template": "{% if %}"}, "no valid Jinja"),
    ],
)
def test_a_file_that_cannot_be_served_is_refused_with_its_field(change: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        tokenizer_from_gguf(BYTE_METADATA | change)


def test_a_template_that_refuses_messages_is_the_clients_fault() -> None:
    with pytest.raises(InvalidRequestError, match="functions have no place here"):
        BYTE_TOKENIZER.render_chat([{"role": "function", "content": "x"}])


def test_without_a_template_chats_are_refused() -> None:
    metadata = {key: value for key, value in BYTE_METADATA.items() if key != "tokenizer.chat_template"}
    with pytest.raises(InvalidRequestError, match="no chat template"):
        tokenizer_from_gguf(metadata).render_chat([{"role": "user", "content": "x"}])


def test_a_template_cannot_leave_its_sandbox() -> None:
    template = ChatTemplate("{{ messages.__class__.__mro__ }}", {})
    with pytest.raises(InvalidRequestError, match="unsafe"):
        template.render([{"role": "user", "content": "x"}])


def huggingface_directory(path: Path, **config: object) -> Path:
    backend = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "</s>": 2, "<|end|>": 3}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [tokenizers.AddedToken("</s>", special=True), tokenizers.AddedToken("<|end|>", special=True)]
    )
    backend.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}} | config))
    return path


def test_a_directory_gives_its_template_and_its_ends(tmp_path: Path) -> None:
    directory = huggingface_directory(tmp_path, chat_template="{{ messages[0].content }}{{ eos_token }}")
    tokenizer = tokenizer_from_directory(directory, [3])
    assert tokenizer.eos_token_ids == (2, 3)
    assert tokenizer.render_chat([{"role": "user", "content": "ab"}]) == "ab</s>"
    assert tokenizer.encode("ab</s>") == [0, 1, 2]
    (directory / "generation_config.json").write_text('{"eos_token_id": [3, 2]}')
    (directory / "chat_template.jinja").write_text("file")
    tokenizer = tokenizer_from_directory(directory)
    assert tokenizer.eos_token_ids == (3, 2)
    assert tokenizer.render_chat([{"role": "user", "content": "ab"}]) == "file"


def test_of_several_templates_the_default_is_taken(tmp_path: Path) -> None:
    templates = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    tokenizer = tokenizer_from_directory(huggingface_directory(tmp_path, chat_template=templates))
    assert tokenizer.render_chat([{"role": "user", "content": "ab"}]) == "plain"


def test_a_directory_without_a_tokenizer_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        tokenizer_from_directory(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        tokenizer_from_directory(tmp_path)


def test_chats_are_rendered_as_transformers_renders_them() -> None:
    reference = PreTrainedTokenizerFast(tokenizer_object=BYTE_TOKENIZER._backend, eos_token="<|im_end|>")
    messages = [{"role": "system", "content": "Be <|im_end|> brief"}, {"role": "user", "content": "naïve\n日本語 🎉"}]
    expected = reference.apply_chat_template(
        messages, chat_template=CHAT_TEMPLATE, add_generation_prompt=True, return_dict=False
    )
    text = BYTE_TOKENIZER.render_chat(messages)
    assert BYTE_TOKENIZER.encode(text, add_special_tokens=False) == expected


def test_the_gateway_starts_without_torch() -> None:
    script = "import sys, gateway.main; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


SAMPLES = [
    "Hello, world! I'm testing: it's 12345.678 o'clock, isn't it?",
    "  leading and trailing  ",
    "tabs\tand\nnew\r\nlines\n\n\n  indented",
    "Grüße aus München, naïve café, ﬁ ½ ²",
    "日本語のテキスト、中文字符,한국어",
    "Привет, мир! Ελληνικά עברית العربية हिन्दी",
    "🎉👩‍👩‍👧‍👦🇩🇪 e\u0301",
    "١٢٣ ४५६ 1\u20442",
    "def f(x):\n    return x ** 2  # square",
    "<|im_start|>user\nhi<|im_end|>\n",
    "\u00a0\u3000\u200b",
    "",
]


@pytest.fixture(scope="module")
def demo() -> Tokenizer:
    checkpoint = resolve("demo")
    return load_tokenizer(checkpoint, ModelConfig.from_checkpoint(checkpoint))


@pytest.fixture(scope="module")
def reference() -> PreTrainedTokenizerBase:
    """transformers' reading of the same file, with the digits split as the model's published tokenizer.json does."""
    path = resolve("demo").path
    reference = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    reference.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    return reference


@pytest.mark.model
def test_the_demo_model_reads_and_writes_as_transformers_does(
    demo: Tokenizer, reference: PreTrainedTokenizerBase
) -> None:
    for text in SAMPLES:
        ids = demo.encode(text)
        assert ids == reference.encode(text), text
        assert demo.decode(ids) == reference.decode(ids, skip_special_tokens=True), text
        chat = [{"role": "user", "content": text}]
        assert demo.encode(demo.render_chat(chat), add_special_tokens=False) == reference.apply_chat_template(
            chat, add_generation_prompt=True, return_dict=False
        )


@pytest.mark.model
@given(st.text())
def test_the_demo_model_writes_what_it_reads(demo: Tokenizer, text: str) -> None:
    known_bytes = {token[0] for token in demo.vocabulary.token_bytes if len(token) == 1}
    assume("<" not in text and known_bytes.issuperset(text.encode()))
    assert demo.decode(demo.encode(text)) == text


@pytest.mark.model
@given(st.lists(st.integers(0, 49_151), max_size=40))
def test_the_demo_model_writes_any_tokens_as_transformers_does(
    demo: Tokenizer, reference: PreTrainedTokenizerBase, ids: list[int]
) -> None:
    assert demo.decode(ids) == reference.decode(ids, skip_special_tokens=True)


@pytest.mark.model
def test_the_demo_model_ends_at_its_mark(demo: Tokenizer) -> None:
    assert tuple(demo.encode("<|im_end|>")) == demo.eos_token_ids
    assert demo.render_chat([{"role": "user", "content": "Hi"}]).endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_that_is_brought_along_knows_the_models_special_tokens() -> None:
    metadata = {key: value for key, value in BYTE_METADATA.items() if key != "tokenizer.chat_template"}
    tokenizer = tokenizer_from_gguf(metadata)
    messages = [{"role": "user", "content": "x"}]
    assert tokenizer.render_chat(messages, template="{{ messages[0].content + eos_token }}") == "x<|im_end|>"
    with pytest.raises(InvalidRequestError, match="no chat template"):
        tokenizer.render_chat(messages)
    with pytest.raises(InvalidRequestError, match="no valid Jinja"):
        tokenizer.render_chat(messages, template="{% for %}")
