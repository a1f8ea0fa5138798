"""A cluster of two primaries, and a replica of the one that has the pool: wherever the pool is, every role finds it."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import MovedError

from shared.errors import ConfigurationError
from shared.keys import PoolKeys
from shared.redis_bus import RedisGatewayBus, RedisWorkerBus
from shared.redis_bus.route import Address, Route
from shared.redis_server import find_redis_server
from tests.shared.failover import every_role_goes_on, free_ports, until


@dataclass
class Cluster:
    """Attributes:
    owner: Has the pool's slot.
    """

    url: str
    owner: subprocess.Popen[bytes]
    owner_port: int
    other_port: int
    replica_port: int

    def fail_over(self) -> None:
        self.owner.kill()
        with redis.Redis(port=self.replica_port, protocol=2) as replica:
            replica.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    ports = sorted(free_ports(3))
    owner, other, replica = ports
    processes = []
    for port in ports:
        (tmp_path / str(port)).mkdir()
        command = [
            str(find_redis_server()), "--port", str(port), "--cluster-enabled", "yes", "--cluster-node-timeout", "1000",
            "--cluster-require-full-coverage", "no", "--save", "", "--dir", str(tmp_path / str(port)),
        ]  # fmt: skip
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    nodes = [redis.Redis(port=port, protocol=2) for port in ports]
    try:
        for node in nodes:
            until(node.ping)
        ours = key_slot(PoolKeys("p").requests.encode())
        nodes[0].execute_command("CLUSTER", "ADDSLOTS", ours)
        rest = [slot for slot in range(REDIS_CLUSTER_HASH_SLOTS) if slot != ours]
        nodes[1].execute_command("CLUSTER", "ADDSLOTS", *rest)
        for port in ports[1:]:
            nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port)
        owner_id = nodes[0].execute_command("CLUSTER", "MYID")
        until(lambda: nodes[2].execute_command("CLUSTER", "REPLICATE", owner_id) is not None)
        until(lambda: nodes[2].info("replication")["master_link_status"] == "up")
        for node in nodes:
            until(lambda node=node: is_whole(node))
        yield Cluster(f"redis+cluster://127.0.0.1:{other},127.0.0.1:{replica}", processes[0], owner, other, replica)
    finally:
        for node in nodes:
            node.close()
        for process in processes:
            process.kill()
            process.wait()


def is_whole(node: redis.Redis) -> bool:
    info = node.execute_command("CLUSTER", "INFO")
    return b"cluster_state:ok" in info and f"cluster_slots_assigned:{REDIS_CLUSTER_HASH_SLOTS}".encode() in info


async def test_every_role_finds_the_pool_and_goes_on_where_its_slot_goes(cluster: Cluster) -> None:
    await every_role_goes_on(cluster.url, cluster.owner_port, cluster.fail_over)
    with redis.Redis(port=cluster.replica_port, protocol=2) as client:
        assert client.xlen(PoolKeys("p").requests) == 1


async def test_a_node_that_is_down_is_passed_over(cluster: Cluster) -> None:
    (free,) = free_ports(1)
    bus = await RedisGatewayBus.connect(f"redis+cluster://127.0.0.1:{free},127.0.0.1:{cluster.other_port}", "p")
    await bus.heartbeat()
    assert await bus.missing(["1-1"]) == {"1-1"}
    await bus.close()


def test_a_node_is_not_taken_for_a_server_that_stands_alone(cluster: Cluster) -> None:
    with pytest.raises(ConfigurationError, match=r"redis\+cluster://"):
        RedisWorkerBus.connect(f"redis://127.0.0.1:{cluster.owner_port}", "p")


def test_a_route_begins_at_the_nodes_in_turns_and_goes_where_it_is_sent() -> None:
    route = Route.of("rediss+cluster://me:secret@a:1,b,[::1]:3/?ssl_check_hostname=False")
    assert route.url == "rediss://me:secret@a:1/0?ssl_check_hostname=False"
    assert [route.next() for _ in range(4)] == [("a", 1), ("b", 6379), ("::1", 3), ("a", 1)]
    route.moved(MovedError("7 c:4"))
    assert [route.next(), route.next()] == [("c", 4), ("c", 4)]
    route.moved(MovedError("7 :5"))
    assert route.next() == Address("c", 5)
    route.lost()
    assert route.next() == Address("b", 6379)


def test_a_server_that_stands_alone_has_no_route() -> None:
    route = Route.of("redis://a:1/0")
    assert (route.url, route.next(), route.num_servers, route.is_cluster) == ("redis://a:1/0", None, 1, False)


@pytest.mark.parametrize(
    "url", ["redis+cluster://", "redis+cluster://a:x", "redis+cluster://a:1,,b", "redis+cluster://a/2"]
)
def test_a_url_that_leaves_something_out_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(ConfigurationError, match="--redis-url is wrong"):
        RedisWorkerBus.connect(url, "p")
