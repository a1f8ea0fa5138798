from gateway.tokenizers.tokenizer import Tokenizer
from tests.gateway.conftest import EOS, running_gateway, says

CHAT_TEXT = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


async def test_a_text_and_its_tokens(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("")) as gateway:
        body = {"prompt": "Grüß", "return_token_strs": True}
        answer = (await gateway.http.post("/tokenize", json=body)).json()
        tokens = list("Grüß".encode())
        assert (answer["tokens"], answer["count"], answer["max_model_len"]) == (tokens, 6, 256)
        assert answer["token_strs"] == ["G", "r", "Ã", "¼", "Ã", "Ł"]
        assert (await gateway.http.post("/tokenize", json={"prompt": "x"})).json()["token_strs"] is None
        assert (await gateway.http.post("/detokenize", json={"tokens": tokens})).json() == {"prompt": "Grüß"}


async def test_a_conversation_is_read_as_the_model_reads_it(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("ok")) as gateway:
        messages = {"messages": [{"role": "user", "content": "Hi"}]}
        answer = (await gateway.http.post("/tokenize", json=messages | {"model": "tiny"})).json()
        text = (await gateway.http.post("/detokenize", json={"tokens": answer["tokens"]})).json()["prompt"]
        assert text == CHAT_TEXT
        usage = (await gateway.http.post("/v1/chat/completions", json=messages | {"model": "tiny"})).json()["usage"]
        assert usage["prompt_tokens"] == answer["count"]
        closed = (await gateway.http.post("/tokenize", json=messages | {"add_generation_prompt": False})).json()
        assert closed["count"] < answer["count"]
        assert EOS in closed["tokens"]


async def test_long_ones_are_the_same_as_short_ones(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("")) as gateway:
        text = "abc " * 5_000
        tokens = (await gateway.http.post("/tokenize", json={"prompt": text})).json()["tokens"]
        assert tokens == list(text.encode())
        assert (await gateway.http.post("/detokenize", json={"tokens": tokens})).json()["prompt"] == text


async def test_what_is_wrong_is_named(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("")) as gateway:
        for path, body, status, param in (
            ("tokenize", {}, 400, "prompt"),
            ("tokenize", {"prompt": 5}, 400, "prompt"),
            ("tokenize", {"messages": []}, 400, "messages"),
            ("tokenize", {"messages": [{"role": "user", "content": "x"}], "chat_template": "x"}, 400, "chat_template"),
            ("tokenize", {"prompt": "x", "model": "huge"}, 404, "model"),
            ("detokenize", {"tokens": [258]}, 400, "tokens"),
            ("detokenize", {"tokens": [-1]}, 400, "tokens[0]"),
            ("detokenize", {"tokens": "x"}, 400, "tokens"),
        ):
            response = await gateway.http.post(f"/{path}", json=body)
            assert (response.status_code, response.json()["error"]["param"]) == (status, param), (path, body)


async def test_they_want_a_key_where_keys_are_wanted(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says(""), api_keys=("sk-right",)) as gateway:
        for path, body in (("tokenize", {"prompt": "x"}), ("detokenize", {"tokens": [1]})):
            assert (await gateway.http.post(f"/{path}", json=body)).status_code == 401
            key = {"authorization": "Bearer sk-right"}
            assert (await gateway.http.post(f"/{path}", json=body, headers=key)).status_code == 200
