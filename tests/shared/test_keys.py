from shared.ids import GatewayId, WorkerId
from shared.keys import PoolKeys


def _all_keys(pool: str) -> list[str]:
    keys, worker, gateway = PoolKeys(pool), WorkerId("x"), GatewayId("x")
    return [
        keys.requests,
        keys.control,
        keys.lead,
        keys.epoch,
        keys.status,
        keys.writers,
        keys.worker_sequence,
        keys.plans(worker),
        keys.results(worker),
        keys.tokens(gateway),
        keys.worker(worker),
        keys.gateway(gateway),
        keys.cases,
        keys.dead_letters,
        keys.usage(1),
        keys.usage_log,
    ]


def test_every_key_of_a_pool_is_on_its_cluster_slot() -> None:
    assert all(key.startswith("{p}:") for key in _all_keys("p"))


def test_keys_differ_from_each_other_and_from_another_pools() -> None:
    assert len(set(_all_keys("p") + _all_keys("q"))) == 2 * len(_all_keys("p"))
