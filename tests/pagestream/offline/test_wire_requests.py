import pytest

from gateway.tokenizers.gguf_tokenizer import tokenizer_from_gguf
from gateway.tokenizers.prompt_tokens import PromptTokenizer
from pagestream.offline.prompts import Prompt
from pagestream.offline.sampling_params import SamplingParams, StructuredOutputsParams
from pagestream.offline.wire_requests import Request, WireRequests
from shared.errors import InvalidRequestError
from shared.sampling import SamplingParams as WireSamplingParams
from tests.gateway.conftest import BYTE_METADATA, EOS

TOKENIZER = PromptTokenizer(tokenizer_from_gguf(BYTE_METADATA))
PROMPT = Prompt("hello", [1, 2, 3, 4, 5])


def wire(params: SamplingParams, *, seed: int | None = 0) -> WireSamplingParams:
    return WireRequests(TOKENIZER, max_model_len=64, seed=seed).sampling(Request(PROMPT, params), 0)


def test_every_parameter_reaches_the_worker() -> None:
    sent = wire(
        SamplingParams(
            n=3, presence_penalty=0.1, frequency_penalty=0.2, repetition_penalty=1.3, temperature=0.4, top_p=0.5,
            top_k=6, min_p=0.7, seed=8, stop_token_ids=[9], max_tokens=20, min_tokens=2, logprobs=3, prompt_logprobs=4,
            logit_bias={10: 5.0}, allowed_token_ids=[9, 10, 11], bad_words=["no"],
            structured_outputs=StructuredOutputsParams(choice=["a"]),
        )
    )  # fmt: skip
    defaults = WireSamplingParams()
    unsent = {name for name in WireSamplingParams.__struct_fields__ if getattr(sent, name) == getattr(defaults, name)}
    assert unsent == {"pooling"}
    assert sent.stop_token_ids == (9, EOS)
    assert sent.bad_words == (tuple(b"no"), tuple(b" no"))
    assert sent.logit_bias == ((10, 5.0),)


def test_defaults_ask_for_nothing_but_an_end() -> None:
    sent = wire(SamplingParams(seed=0, top_k=-1))
    assert sent == WireSamplingParams(stop_token_ids=(EOS,))
    assert wire(SamplingParams(seed=0, ignore_eos=True)).stop_token_ids == ()


def test_the_output_ends_with_the_context() -> None:
    assert wire(SamplingParams(max_tokens=None)).max_tokens == 59
    assert wire(SamplingParams(max_tokens=1000, min_tokens=500)).min_tokens == 59


def test_a_count_of_minus_one_tells_of_the_whole_vocabulary() -> None:
    sent = wire(SamplingParams(logprobs=-1, prompt_logprobs=-1))
    assert (sent.logprobs, sent.prompt_logprobs) == (258, 258)


def test_requests_without_a_seed_get_the_next_of_the_models_own() -> None:
    def seeds(seed: int | None) -> list[int]:
        requests = WireRequests(TOKENIZER, max_model_len=64, seed=seed)
        return [requests.sampling(Request(PROMPT, SamplingParams()), 0).seed for _ in range(3)]

    assert seeds(1) == seeds(1)
    assert len({*seeds(1), *seeds(2), *seeds(None), *seeds(None)}) == 12
    assert wire(SamplingParams(seed=-1)).seed == 2**64 - 1


@pytest.mark.parametrize("field", ["stop_token_ids", "allowed_token_ids"])
def test_tokens_that_the_model_does_not_have_are_refused(field: str) -> None:
    with pytest.raises(InvalidRequestError, match=rf"'{field}': token id 258 is not in the vocabulary \[0, 258\)"):
        wire(SamplingParams(**{field: [258]}))
    with pytest.raises(InvalidRequestError, match="'logit_bias': token id 999"):
        wire(SamplingParams(logit_bias={999: 1.0}))
