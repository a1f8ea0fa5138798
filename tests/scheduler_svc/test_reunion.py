from scheduler_svc.leadership.reunion import REUNION_S, Reunion
from shared.ids import WorkerId

A, B, DEAD = WorkerId("a"), WorkerId("b"), WorkerId("dead")


def test_those_who_live_are_waited_for():
    reunion = Reunion([A, B, DEAD])
    assert not reunion.is_over(now_s=5.0)
    reunion.look([A, B])
    assert reunion.missing == {A, B}
    reunion.strike(A)
    assert not reunion.is_over(now_s=5.1)
    reunion.strike(B)
    assert reunion.is_over(now_s=5.1)


def test_nobody_is_waited_for_too_long():
    reunion = Reunion([A])
    assert not reunion.is_over(now_s=5.0)
    reunion.look([A])
    assert not reunion.is_over(now_s=5.0 + REUNION_S - 0.1)
    assert reunion.is_over(now_s=5.0 + REUNION_S)


def test_nobody_is_waited_for_where_nobody_was():
    assert Reunion([]).is_over(now_s=0.0)
    alone = Reunion([DEAD])
    alone.look([])
    assert alone.is_over(now_s=0.0)


def test_who_is_back_before_the_first_look_is_not_waited_for():
    reunion = Reunion([A])
    reunion.strike(A)
    reunion.look([A])
    assert reunion.is_over(now_s=0.0)


def test_only_the_first_look_counts():
    reunion = Reunion([A, B])
    reunion.look([A])
    reunion.look([A, B])
    assert reunion.missing == {A}


def test_it_can_be_called_off():
    reunion = Reunion([A])
    reunion.call_off()
    assert reunion.is_over(now_s=0.0)
    reunion.look([A])
    assert not reunion.missing
