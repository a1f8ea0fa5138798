import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.streaming.gap import ChoiceStream, Order, TokenItem, WriterCursors, items_of
from gateway.streaming.token_logprobs import TokenLogprobs, unpack_logprobs
from shared.errors import MessageError
from shared.ids import GatewayId, Handle, StepId, WorkerId
from shared.messages import Fault, Logprobs, LogprobSpan, TokenBatch
from shared.packing import pack_f32, pack_u32
from shared.sampling import FinishCode

WRITER = WorkerId("w-1")


def batch(step: int, previous: int, **arrays: bytes) -> TokenBatch:
    return TokenBatch(
        gateway_id=GatewayId("g"), worker_id=WRITER, step=StepId(1, step), previous=StepId(1, previous), **arrays
    )


def item(position: int, tokens: list[int], finish: FinishCode = FinishCode.RUNNING) -> TokenItem:
    return TokenItem(Handle(7), position, tokens, finish)


def test_batches_are_seen_next_or_after_a_gap() -> None:
    cursors = WriterCursors()
    cursors.advance(WRITER, StepId(1, 5))
    assert cursors.order(batch(5, 4)) is Order.SEEN
    assert cursors.order(batch(9, 5)) is Order.NEXT
    assert cursors.order(batch(9, 6)) is Order.AFTER_A_GAP


def test_a_cursor_never_goes_back() -> None:
    cursors = WriterCursors()
    cursors.advance(WRITER, StepId(2, 1))
    cursors.advance(WRITER, StepId(1, 9))
    assert cursors.of(WRITER) == StepId(2, 1)


def test_forgotten_writers_start_afresh() -> None:
    cursors = WriterCursors()
    cursors.advance(WRITER, StepId(2, 1))
    cursors.retain([])
    assert cursors.of(WRITER) == StepId(0, 0)


def test_items_carry_their_tokens_and_what_was_cached() -> None:
    arrays = {
        "handles": pack_u32([3, 4, 5]),
        "indices": pack_u32([0, 8, 0]),
        "counts": bytes([2, 1, 1]),
        "finishes": bytes([0, 1, 0]),
        "tokens": pack_u32([10, 11, 12, 13]),
        "cached": pack_u32([64, 0]),
    }
    items = [
        (i.handle, i.position, list(i.tokens), i.finish, i.num_cached_tokens) for i in items_of(batch(1, 0, **arrays))
    ]
    assert items == [(3, 0, [10, 11], 0, 64), (4, 8, [12], 1, 0), (5, 0, [13], 0, 0)]


def test_arrays_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(MessageError, match="different lengths"):
        list(items_of(batch(1, 0, handles=pack_u32([3]), indices=pack_u32([0]), counts=b"\1", finishes=b"\0")))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.randoms())
def test_items_late_twice_and_out_of_order_give_each_token_once_and_in_order(
    counts: list[int], rng: random.Random
) -> None:
    total = sum(counts)
    items, start = [], 0
    for count in counts:
        first = max(0, start - rng.randint(0, 3))
        stop = start + count
        items.append(item(first, list(range(first, stop)), FinishCode.STOP if stop == total else FinishCode.RUNNING))
        start = stop
    delivered = items + rng.choices(items, k=3)
    rng.shuffle(delivered)
    choice, seen = ChoiceStream(Handle(7), 0.0), []
    for late in delivered:
        choice.accept(late, 1.0)
        seen += choice.take()[0]
    assert seen == list(range(total))
    assert choice.finish is FinishCode.STOP
    assert not choice.has_gap


def test_a_missing_item_is_a_gap_until_it_comes() -> None:
    choice = ChoiceStream(Handle(7), 0.0)
    choice.accept(item(2, [2]), 0.0)
    assert choice.has_gap
    assert choice.take()[0] == []
    choice.accept(item(0, [0, 1]), 0.0)
    assert not choice.has_gap
    assert choice.take()[0] == [0, 1, 2]


def test_nothing_comes_after_the_end() -> None:
    choice = ChoiceStream(Handle(7), 0.0)
    choice.fail(Fault(Handle(7), 500, "gone"))
    choice.accept(item(0, [1], FinishCode.STOP), 0.0)
    choice.fail(Fault(Handle(7), 400, "again"))
    assert choice.take()[0] == []
    assert choice.fault == Fault(Handle(7), 500, "gone")


def test_a_slow_choice_is_given_four_of_its_intervals_before_it_counts_as_quiet() -> None:
    choice = ChoiceStream(Handle(7), 0.0)
    assert not choice.is_quiet(0.2)
    assert choice.is_quiet(0.3)
    for position in range(100):
        choice.accept(item(position, [1]), float(position + 1))
    assert not choice.is_quiet(103.0)
    assert choice.is_quiet(105.0)


def logprobs(*chosen: float, num_top: int = 1) -> Logprobs:
    ids = [place for place, _ in enumerate(chosen) for _ in range(num_top)]
    return Logprobs(
        num_top=num_top,
        chosen=pack_f32(chosen),
        ranks=pack_u32([2] * len(chosen)),
        top_ids=pack_u32(ids),
        top=pack_f32([-0.5] * len(ids)),
    )


def test_logprobs_go_with_the_tokens_of_their_handle() -> None:
    arrays = {
        "handles": pack_u32([3, 4]),
        "indices": pack_u32([0, 8]),
        "counts": bytes([2, 1]),
        "finishes": bytes([0, 1]),
        "tokens": pack_u32([10, 11, 12]),
        "cached": pack_u32([64]),
    }
    span = LogprobSpan(Handle(4), 8, logprobs(-1.5))
    first, second = items_of(batch(1, 0, **arrays, logprobs=(span,)))
    assert first.logprobs == ()
    assert second.logprobs == [TokenLogprobs(-1.5, 2, ((0, -0.5),))]
    for wrong in (LogprobSpan(Handle(4), 7, logprobs(-1.5)), LogprobSpan(Handle(3), 0, logprobs(-1.5))):
        with pytest.raises(MessageError):
            list(items_of(batch(1, 0, **arrays, logprobs=(wrong,))))


@pytest.mark.parametrize("name", ["chosen", "ranks", "top_ids", "top"])
def test_logprobs_that_contradict_each_other_are_refused(name: str) -> None:
    packed = msgspec.structs.replace(logprobs(-1.0, -2.0, num_top=3), **{name: pack_u32([1])})
    with pytest.raises(MessageError):
        unpack_logprobs(packed)


def test_logprobs_stay_beside_their_tokens_whatever_comes_late_or_twice() -> None:
    told = [TokenLogprobs(-float(place), 1, ()) for place in range(6)]
    choice = ChoiceStream(Handle(7), 0.0)
    for start, stop in ((2, 4), (0, 1), (0, 3), (3, 6)):
        tokens = list(range(start, stop))
        choice.accept(TokenItem(Handle(7), start, tokens, FinishCode.RUNNING, logprobs=told[start:stop]), 0.0)
    assert choice.take() == (list(range(6)), told)
    assert choice.take() == ([], [])


def test_a_prompt_told_again_is_told_once() -> None:
    choice = ChoiceStream(Handle(7), 0.0)
    for start, numbers in ((1, (-1.0, -2.0)), (1, (-1.0,)), (2, (-2.0, -3.0))):
        choice.accept_prompt(LogprobSpan(Handle(7), start, logprobs(*numbers)), 5.0)
    assert {place: one.logprob for place, one in choice.prompt_logprobs.items()} == {1: -1.0, 2: -2.0, 3: -3.0}
    assert not choice.is_quiet(5.1)
