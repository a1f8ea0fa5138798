from scheduler_svc.leadership.watch import Watch
from scheduler_svc.settings import SchedulerSettings
from tests.scheduler_svc.simulated_pool import SimulatedPool

SETTINGS = SchedulerSettings(redis_url="redis://nowhere")


def test_the_status_tells_of_workers_as_long_as_they_are_there():
    pool = SimulatedPool()
    watch = Watch(SETTINGS)
    assert watch.pool_status(pool.core, now_s=0.0).workers == {}
    first, second = pool.add_worker(), pool.add_worker()
    assert watch.pool_status(pool.core, now_s=1.0).workers == dict.fromkeys((first, second), pool.capabilities)
    pool.kill(first)
    assert watch.pool_status(pool.core, now_s=2.0).workers == {second: pool.capabilities}


def test_the_status_tells_how_much_of_the_held_cache_no_token_has():
    pool = SimulatedPool()
    worker = pool.add_worker()
    pool.submit([1, 2, 3, 4, 5])
    pool.plan(worker)
    assert Watch(SETTINGS).pool_status(pool.core, now_s=0.0).kv_cache_unused_ratio == 3 / 8
