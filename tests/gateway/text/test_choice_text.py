import pytest

from gateway.text.choice_text import ChoiceText, TextDelta, TextRules
from gateway.tokenizers.vocabulary import Vocabulary
from shared.sampling import FinishCode

BYTES = Vocabulary((*(bytes([i]) for i in range(256)), b""))
EOS = 256


def choice(*stops: str, **rules: object) -> ChoiceText:
    return ChoiceText(0, BYTES, TextRules(stops=stops, **rules))


def read(text: ChoiceText, tokens: list[int], finish: FinishCode) -> tuple[str, str | None, bool]:
    delta = text.push(tokens, finish)
    return delta.text, delta.finish_reason, delta.stopped_here


def test_the_stop_token_is_counted_and_not_shown() -> None:
    text = choice()
    assert text.push([65, 66], FinishCode.STOP) == TextDelta(0, "A", "stop", token_ids=[65, 66], scored=[])
    assert text.num_tokens == 2


def test_the_last_token_of_a_full_output_is_shown() -> None:
    assert read(choice(), [65, 66], FinishCode.LENGTH) == ("AB", "length", False)


@pytest.mark.parametrize("finish", [FinishCode.RUNNING, FinishCode.LENGTH])
def test_a_stop_string_ends_the_text_and_the_tokens_that_count(finish: FinishCode) -> None:
    text = choice("BC")
    assert read(text, list(b"AB"), FinishCode.RUNNING) == ("A", None, False)
    delta = text.push(list(b"CDE"), finish)
    assert delta == TextDelta(0, "", "stop", finish is FinishCode.RUNNING, "BC", [67], [])
    assert text.num_tokens == 3
    assert text.is_finished


def test_what_was_held_back_is_shown_at_the_end() -> None:
    text = choice("BCD")
    assert text.push(list(b"ABC"), FinishCode.RUNNING).text == "A"
    assert read(text, [EOS], FinishCode.STOP) == ("BC", "stop", False)


def test_an_unfinished_character_is_shown_as_a_replacement() -> None:
    assert read(choice("x"), [0xE6], FinishCode.LENGTH) == ("\ufffd", "length", False)
