"""Usage is what was computed and delivered, whatever happened meanwhile."""

import random

import pytest

from shared.messages import Cancel
from shared.usage import Usage
from tests.scheduler_svc.simulated_pool import SimulatedPool


def usage_of(pool: SimulatedPool, request: str) -> Usage:
    return pool.usage[request].usage


def test_a_request_alone_computes_each_position_once_but_the_last():
    pool = SimulatedPool()
    pool.add_worker()
    request = pool.submit(list(range(10)), max_tokens=5)
    pool.run()
    assert usage_of(pool, request) == Usage(10, 0, 14, 0, 5)


def test_what_the_cache_holds_is_not_computed():
    pool = SimulatedPool()
    pool.add_worker()
    for _ in range(2):
        request = pool.submit(list(range(10)), max_tokens=5)
        pool.run()
    assert usage_of(pool, request) == Usage(10, 8, 6, 0, 5)


def test_choices_share_their_prompt():
    pool = SimulatedPool()
    pool.add_worker()
    request = pool.submit(list(range(10)), max_tokens=5, n=3)
    pool.run()
    assert usage_of(pool, request) == Usage(10, 0, 9 + 3 * 5, 0, 15)


def test_a_gateway_says_how_much_its_client_was_given():
    pool = SimulatedPool()
    worker = pool.add_worker()
    request = pool.submit(list(range(4)), max_tokens=20)
    for _ in range(6):
        pool.plan(worker)
        pool.execute(worker)
        pool.deliver(worker)
    pool.core.cancel(Cancel(request_id=request, reason="stop", choice=0, delivered=(3,)))
    pool._collect()
    assert usage_of(pool, request) == Usage(4, 0, 9, 0, 3)


@pytest.mark.parametrize("num_deaths", [0, 3])
def test_after_preemptions_and_deaths_each_position_counts_once_and_the_rest_as_recomputed(num_deaths):
    randomness = random.Random(num_deaths)
    pool = SimulatedPool(num_blocks=16, enable_prefix_caching=False)
    workers = [pool.add_worker() for _ in range(2)]
    requests = [pool.submit([index, *range(8)], max_tokens=20) for index in range(8)]
    for _ in range(num_deaths):
        for worker in workers * 10:
            pool.plan(worker)
            pool.execute(worker)
            pool.deliver(worker)
        pool.kill(workers.pop(randomness.randrange(2)))
        workers.append(pool.add_worker())
    pool.run()
    pool.check_all_done()
    for request in requests:
        usage = usage_of(pool, request)
        assert (usage.num_prompt_tokens, usage.num_computed_tokens, usage.num_delivered_tokens) == (9, 28, 20)
    total = sum(usage_of(pool, request).num_recomputed_tokens + 28 for request in requests)
    assert total == pool.num_computed
    assert pool.core.num_preemptions + num_deaths > 0
    assert total > 28 * 8
