import os
import signal
import time

import pytest
import redis

from pagestream.redis_keeper import RedisKeeper


class Heard:
    def __init__(self) -> None:
        self.alerts: list[str] = []

    def stage(self, service: str, text: str) -> None: ...

    def alert(self, service: str, text: str) -> None:
        self.alerts.append(service)


@pytest.mark.parametrize("url", ["redis://a:1", "redis+sentinel://a:1/main", "redis+cluster://a:1,b:2"])
def test_a_redis_that_runs_elsewhere_is_left_to_others(url: str) -> None:
    heard = Heard()
    with RedisKeeper(url, audience=heard) as keeper:
        keeper.check()
    assert (keeper.url, heard.alerts) == (url, [])


def test_its_own_starts_again_when_it_is_killed() -> None:
    heard = Heard()
    with RedisKeeper(None, audience=heard) as keeper, redis.Redis.from_url(keeper.url, protocol=2) as client:
        first = client.info("server")
        os.kill(first["process_id"], signal.SIGKILL)
        while not heard.alerts:
            keeper.check()
            time.sleep(0.01)
        assert client.info("server")["run_id"] != first["run_id"]
    assert heard.alerts == ["redis"]
