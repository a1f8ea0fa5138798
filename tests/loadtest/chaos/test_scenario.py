"""Scenarios are data: those of the product are right, and what is wrong with one's own is said."""

from pathlib import Path

import pytest

from loadtest.chaos.faults import draw
from loadtest.chaos.requests import RequestSource
from loadtest.chaos.scenario import Scenario, built_in
from shared.errors import ConfigurationError


def test_those_of_the_product_can_be_loaded() -> None:
    assert {"all", "model", "soak"} <= set(built_in())
    for name in built_in():
        assert Scenario.load(name).description


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("description = 'a'\nseed = x", "cannot be used"),
        ("description = 'a'\nstreems = 3", "unknown field `streems`"),
        ("description = 'a'\nnum_faults = 3", "num_faults but no faults"),
        ("description = 'a'\nnum_faults = 3\n[faults]\nkill-client = 1", "Invalid enum value 'kill-client'"),
        ("description = 'a'\nrunner = 'model'", "needs num_requests"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=reason):
        Scenario.load(str(file))


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"no scenario 'everything'; give one of all, .*soak"):
        Scenario.load("everything")


def test_the_same_scenario_asks_and_breaks_the_same() -> None:
    scenario = Scenario.load("all")
    drawn = [draw(scenario, number) for number in range(400)]

    assert drawn == [draw(scenario, number) for number in range(400)]
    assert {fault.name for fault in drawn} == set(scenario.faults)
    assert [RequestSource(scenario).make(n) for n in range(50)] == [RequestSource(scenario).make(n) for n in range(50)]


def test_requests_repeat_where_they_must() -> None:
    source = RequestSource(Scenario(description="a", runner="model", num_requests=3))

    assert [source.take().number for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]
