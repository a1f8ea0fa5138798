import pytest

from pagestream import BeamSearchParams, SamplingParams


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("n", 0, "n is 0, but must be a whole number from 1 to 16384"),
        ("n", True, "n is True, but must be a whole number"),
        ("presence_penalty", 2.5, "presence_penalty is 2.5, but must be a number from -2 to 2"),
        ("frequency_penalty", -3, "frequency_penalty is -3, but must be a number from -2 to 2"),
        ("repetition_penalty", 0, "repetition_penalty is 0, but must be a number above 0"),
        ("temperature", -0.1, "temperature is -0.1, but must be a number from 0 to 2"),
        ("temperature", "hot", "temperature is 'hot', but must be a number"),
        ("temperature", float("nan"), "temperature is nan, but must be a number"),
        ("top_p", 0, "top_p is 0, but must be a number above 0 and up to 1"),
        ("top_k", -2, "top_k is -2, but must be a whole number, -1 or more"),
        ("min_p", 1.5, "min_p is 1.5, but must be a number from 0 to 1"),
        ("seed", 0.5, "seed is 0.5, but must be a whole number, or None"),
        ("stop", [""], r"stop is \[''\], but must be a string or a list of strings, none of them empty"),
        ("stop_token_ids", ["a"], r"stop_token_ids is \['a'\], but must be a list of token ids"),
        ("max_tokens", 0, "max_tokens is 0, but must be a whole number, 1 or more, or None"),
        ("min_tokens", 17, "min_tokens is 17, but must be at most max_tokens, 16"),
        ("logprobs", -2, "logprobs is -2, but must be a whole number, -1 or more, or None"),
        ("allowed_token_ids", [], r"allowed_token_ids is \[\], but must be None, or a list of at least one token id"),
        ("bad_words", [3], r"bad_words is \[3\], but must be a list of strings"),
        ("logit_bias", {1: float("inf")}, "logit_bias is {1: inf}, but must be finite numbers by token id"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_what_it_may_be(field: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^{expected}"):
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    params = SamplingParams()
    setattr(params, field, value)
    with pytest.raises(ValueError, match=f"^{expected}"):
        params.verify()


def test_stop_strings_need_text() -> None:
    with pytest.raises(ValueError, match="detokenize is False, but must be True where there are stop strings"):
        SamplingParams(stop="x", detokenize=False)


def test_none_stands_for_a_default_unless_it_means_something() -> None:
    params = SamplingParams.from_optional(temperature=None, n=None, max_tokens=None, stop=None)
    assert (params.temperature, params.n, params.max_tokens, params.stops) == (1.0, 1, None, ())


def test_a_clone_is_another() -> None:
    params = SamplingParams(stop=["a"], logit_bias={1: 2.0})
    clone = params.clone()
    assert clone == params
    assert clone.logit_bias is not params.logit_bias
    assert SamplingParams(stop="ab").stops == ("ab",)


def test_an_unknown_field_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="best_of"):
        SamplingParams(best_of=2)  # type: ignore[call-arg]


@pytest.mark.parametrize(("field", "value"), [("beam_width", 0), ("max_tokens", None), ("length_penalty", "x")])
def test_beam_search_checks_its_parameters(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field} is {value!r}, but must be"):
        BeamSearchParams(**({"beam_width": 2, "max_tokens": 2} | {field: value}))  # type: ignore[arg-type]
