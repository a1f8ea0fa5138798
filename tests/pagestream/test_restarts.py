from pagestream.restarts import FIRST_DELAY_S, MAX_DELAY_S, STEADY_AFTER_S, RestartHistory


def test_a_first_death_is_followed_by_a_start_almost_at_once() -> None:
    assert RestartHistory().died(uptime_s=1.0) == FIRST_DELAY_S


def test_each_further_death_doubles_the_pause_up_to_a_limit() -> None:
    history = RestartHistory()
    delays = [history.died(uptime_s=1.0) for _ in range(100)]

    assert delays[:3] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S]
    assert delays == sorted(delays)
    assert delays[-1] == MAX_DELAY_S


def test_a_service_that_ran_long_enough_is_forgiven() -> None:
    history = RestartHistory()
    for _ in range(5):
        history.died(uptime_s=1.0)

    assert history.died(uptime_s=STEADY_AFTER_S) == FIRST_DELAY_S
