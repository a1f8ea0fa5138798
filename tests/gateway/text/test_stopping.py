from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.text.stopping import StopStringMatcher

letters = st.text("abc", max_size=30)
stops = st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=4)


def run(stop_strings: list[str], pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopStringMatcher(stop_strings)
    shown = ""
    for piece in pieces:
        checked = matcher.push(piece)
        shown += checked.text
        if checked.stop is not None:
            return shown, checked.stop
    return shown + matcher.flush(), None


def cut(text: str, points: list[int]) -> list[str]:
    points = sorted({0, len(text), *(point % (len(text) + 1) for point in points)})
    return [text[start:stop] for start, stop in pairwise(points)]


@given(letters, st.text("abc", min_size=1, max_size=5), st.lists(st.integers(0, 100)))
def test_one_stop_string_cuts_where_find_finds_it_however_the_text_comes(
    text: str, stop: str, points: list[int]
) -> None:
    place = text.find(stop)
    expected = (text, None) if place < 0 else (text[:place], stop)
    assert run([stop], cut(text, points)) == expected


@given(letters, stops, st.lists(st.integers(0, 100)))
def test_of_several_stop_strings_the_one_complete_first_cuts(
    text: str, stop_strings: list[str], points: list[int]
) -> None:
    expected: tuple[str, str | None] = (text, None)
    for end in range(len(text) + 1):
        found = [(text[:end].find(stop), stop) for stop in stop_strings if stop in text[:end]]
        if found:
            place, stop = min(found)
            expected = (text[:place], stop)
            break
    assert run(stop_strings, cut(text, points)) == expected


@given(letters, stops)
def test_nothing_is_held_back_that_cannot_begin_a_stop_string(text: str, stop_strings: list[str]) -> None:
    matcher = StopStringMatcher(stop_strings)
    shown = ""
    for i, letter in enumerate(text, start=1):
        checked = matcher.push(letter)
        shown += checked.text
        if checked.stop is not None:
            return
        held = text[len(shown) : i]
        assert held == "" or any(stop.startswith(held) for stop in stop_strings)


def test_without_stop_strings_text_passes_at_once() -> None:
    assert StopStringMatcher([]).push("anything").text == "anything"
