import pytest
import typer

from pagestream.options import as_environment, parse_count, parse_word


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1", 1),
        ("512", 512),
        ("1k", 1000),
        ("1K", 1024),
        ("32K", 32768),
        ("25.6k", 25600),
        ("1.5M", 3 * 2**19),
        ("2m", 2_000_000),
        ("1g", 10**9),
        ("1G", 2**30),
        ("1t", 10**12),
        ("1T", 2**40),
    ],
)
def test_counts_are_read_as_vllm_reads_them(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "k", "0", "-1", "1.5", "1.0001k", "1kk", "NaN", "Infinity", "1e999K", "1x", "٣x"])
def test_what_is_no_count_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="no positive whole number such as 512, 32k"):
        parse_count(text)


def test_an_environment_leaves_out_what_has_no_value() -> None:
    assert as_environment({"model": "demo", "max_model_len": None, "api_key": ["a", "b"], "seed": 0, "on": False}) == {
        "PAGESTREAM_MODEL": "demo",
        "PAGESTREAM_API_KEY": "a b",
        "PAGESTREAM_SEED": "0",
        "PAGESTREAM_ON": "False",
    }


@pytest.mark.parametrize("text", ["", " ", "two words", "tab\t"])
def test_a_name_that_a_variable_cannot_carry_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="must not be empty or hold spaces"):
        parse_word(text)
