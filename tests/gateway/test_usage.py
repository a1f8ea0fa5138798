"""What a key has used is told to that key."""

import time
from pathlib import Path

import pytest

from gateway.access.keyring import digest
from gateway.monitoring.usage import buckets
from gateway.tokenizers.tokenizer import Tokenizer
from shared.ids import RequestId
from shared.memory_bus import MemoryBus
from shared.usage import HourlyUsage, Usage, UsageRecord, sums_of
from tests.gateway.conftest import running_gateway, says
from tests.gateway.test_api import CHAT

KEYS = ("first", "second", "boss")


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    tables = [
        f'[[key]]\nname = "team {key}"\nsha256 = "{digest(key)}"\nadmin = {str(key == "boss").lower()}' for key in KEYS
    ]
    path = tmp_path / "keys.toml"
    path.write_text("\n".join(tables))
    return str(path)


def headers(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def record(bus: MemoryBus, request_id: str, key_id: str, hour: int) -> None:
    entry = UsageRecord(RequestId(request_id), key_id, Usage(10, 4, 12, 3, 7))
    sums = bus._state.usage.setdefault(hour, {})
    for name, count in sums_of(entry).items():
        sums[name] = sums.get(name, 0) + count
    bus._state.usage_records.append(entry)


async def test_each_key_sees_its_own_usage_and_no_other(byte_tokenizer: Tokenizer, key_file: str) -> None:
    bus, first, second = MemoryBus(), "team first", "team second"
    async with running_gateway(byte_tokenizer, says("Hi"), bus, api_key_file=key_file) as gateway:
        for key in KEYS[:2]:
            await gateway.http.post("/v1/chat/completions", json=CHAT, headers=headers(key))
        assert [submit.api_key_id for submit in gateway.pool.submits] == [first, second]
        hour = int(time.time()) // 3600
        for name, key_id in (("a", first), ("b", first), ("c", second)):
            record(bus, name, key_id, hour)
        page = (await gateway.http.get("/v1/usage?bucket_width=1h", headers=headers("first"))).json()
        (bucket,) = page["data"]
        assert (bucket["start_time"], bucket["end_time"]) == (hour * 3600, hour * 3600 + 3600)
        (result,) = bucket["results"]
        assert result == {
            "object": "organization.usage.completions.result",
            "input_tokens": 20,
            "input_cached_tokens": 8,
            "output_tokens": 14,
            "computed_tokens": 24,
            "recomputed_tokens": 6,
            "num_model_requests": 2,
            "api_key_id": first,
        }
        one = await gateway.http.get("/v1/usage/requests/c", headers=headers("second"))
        assert one.json()["output_tokens"] == 7
        other = await gateway.http.get("/v1/usage/requests/c", headers=headers("first"))
        assert other.status_code == 404
        assert (await gateway.http.get("/v1/usage")).status_code == 401
        everyones = (await gateway.http.get("/v1/usage", headers=headers("boss"))).json()
        assert [result["api_key_id"] for result in everyones["data"][0]["results"]] == [first, second]


@pytest.mark.parametrize("query", ["start_time=5&end_time=5", "bucket_width=1m", "start_time=x"])
async def test_a_wrong_question_is_named(byte_tokenizer: Tokenizer, query: str) -> None:
    async with running_gateway(byte_tokenizer, says("Hi")) as gateway:
        assert (await gateway.http.get(f"/v1/usage?{query}")).status_code == 400


async def test_without_keys_all_is_nobodys(byte_tokenizer: Tokenizer) -> None:
    bus = MemoryBus()
    async with running_gateway(byte_tokenizer, says("Hi"), bus) as gateway:
        await gateway.http.post("/v1/chat/completions", json=CHAT)
        assert gateway.pool.submits[0].api_key_id == ""
        record(bus, "a", "", int(time.time()) // 3600)
        page = (await gateway.http.get("/v1/usage")).json()
        assert page["data"][0]["results"][0]["api_key_id"] is None


def test_hours_become_days() -> None:
    lines = [HourlyUsage(hour, "k", 1, Usage(1, 0, 1, 0, 1)) for hour in (23, 24, 47)]
    days = buckets(lines, hours_per_bucket=24)
    assert [(day.start_time, day.results[0].num_model_requests) for day in days] == [(0, 1), (86_400, 2)]
