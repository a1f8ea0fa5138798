import pytest

from shared.ids import BEFORE_FIRST_STEP, SEAL_STEP, StepId


def test_steps_are_ordered_by_epoch_then_step() -> None:
    assert BEFORE_FIRST_STEP < StepId(5, 1) < StepId(5, 2) < StepId(5, SEAL_STEP) < StepId(6, 1)


@pytest.mark.parametrize("text", ["5-17", b"5-17"])
def test_a_step_is_read_as_redis_writes_it(text: str | bytes) -> None:
    assert StepId.parse(text) == StepId(5, 17)
    assert str(StepId(5, 17)) == "5-17"


@pytest.mark.parametrize("text", ["", "5", "5-", "a-b", "5-1-2"])
def test_other_text_is_no_step(text: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        StepId.parse(text)


def test_only_the_largest_step_is_a_seal() -> None:
    assert StepId(5, SEAL_STEP).is_seal
    assert not StepId(5, SEAL_STEP - 1).is_seal


def test_the_next_step_is_of_the_same_epoch() -> None:
    assert StepId(5, 17).next() == StepId(5, 18)
