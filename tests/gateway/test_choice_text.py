import pytest

from gateway.choice_text import ChoiceText, TextDelta
from gateway.vocabulary import Vocabulary
from shared.sampling import FinishCode

BYTES = Vocabulary((*(bytes([i]) for i in range(256)), b""))
EOS = 256


def choice(*stops: str) -> ChoiceText:
    return ChoiceText(0, BYTES, stops, is_whole_text=True)


def test_the_stop_token_is_counted_and_not_shown() -> None:
    text = choice()
    assert text.push([65, 66], FinishCode.STOP) == TextDelta(0, "A", "stop")
    assert text.num_tokens == 2


def test_the_last_token_of_a_full_output_is_shown() -> None:
    assert choice().push([65, 66], FinishCode.LENGTH) == TextDelta(0, "AB", "length")


@pytest.mark.parametrize("finish", [FinishCode.RUNNING, FinishCode.LENGTH])
def test_a_stop_string_ends_the_text_and_the_tokens_that_count(finish: FinishCode) -> None:
    text = choice("BC")
    assert text.push(list(b"AB"), FinishCode.RUNNING) == TextDelta(0, "A")
    assert text.push(list(b"CDE"), finish) == TextDelta(0, "", "stop", stopped_here=finish is FinishCode.RUNNING)
    assert text.num_tokens == 3
    assert text.is_finished


def test_what_was_held_back_is_shown_at_the_end() -> None:
    text = choice("BCD")
    assert text.push(list(b"ABC"), FinishCode.RUNNING).text == "A"
    assert text.push([EOS], FinishCode.STOP) == TextDelta(0, "BC", "stop")


def test_an_unfinished_character_is_shown_as_a_replacement() -> None:
    assert choice("x").push([0xE6], FinishCode.LENGTH) == TextDelta(0, "\ufffd", "length")
