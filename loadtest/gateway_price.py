"""`make bench-gateway`: what a streamed token costs the gateway, and how far apart the tokens of one step arrive.

The whole stack with a worker that computes nothing and takes as long as a GPU would (`--runner timed`), and chats that
stream side by side; then as many streams of the usual way to write a gateway (`loadtest/fastapi_stream.py`), and of
nothing but the writes (`loadtest/bare_stream.py`), which nobody can do without. A machine that sleeps between the steps
charges more for a token than a busy one, and all of them alike: so they are measured once more with tokens that come as
fast as they can ("busy"). CPU time and tokens are those that the servers themselves count (`/metrics`). A step's spread
is the time from its first event to its last as the client sees them, so the client's own reading is part of it.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import uvloop

from loadtest.http_connection import HttpClient
from loadtest.server import ServerCommand, pagestream_command, running

NUM_STREAMS: Final = (64, 100)
_WARM_UP_S: Final = 2.0
_MAX_TOKENS: Final = 7_500
"""More than a stream can have, so that none ends before the measurement does."""
_PAUSE_S: Final = 0.002
"""Less than between two steps: the fake GPU takes three times as long for one."""
_WHOLE: Final = 0.9
_ENOUGH_STEPS: Final = 100
_EVENT: Final = b"data: "
_CPU: Final = "process_cpu_seconds_total"
_TOKENS: Final = "vllm:generation_tokens_total"
_HEADERS: Final = {"Content-Type": "application/json"}


class Arrival(NamedTuple):
    """An event of a stream."""

    at_s: float
    stream: int


class Price(NamedTuple):
    """One measurement.

    Attributes:
        cpu_us: Per token, user and system time.
        tokens_per_s: Of all streams.
        spreads_ms: Of each step whose beginning and end can be told.
    """

    cpu_us: float
    tokens_per_s: float
    spreads_ms: Sequence[float]

    def row(self, title: str, num_streams: int) -> str:
        """Of the table."""
        cells = [f"{self.cpu_us:.1f}", f"{self.tokens_per_s:.0f}", "", ""]
        if len(self.spreads_ms) >= _ENOUGH_STEPS:
            hundredths = statistics.quantiles(self.spreads_ms, n=100)
            cells[2:] = f"{hundredths[49]:.2f}", f"{hundredths[94]:.2f}"
        return f"| {title} | {num_streams} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo", help="whose tokenizer is used")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--streams", type=int, nargs="+", default=NUM_STREAMS)
    arguments = parser.parse_args()
    print("| server | streams | CPU per token, us | tokens/s | spread of a step, ms: median | 95 % |")
    print("|---|---|---|---|---|---|")
    flags = (arguments.model, "--max-num-seqs", str(max(arguments.streams)), "--runner")
    usual = (sys.executable, "-m", "loadtest.fastapi_stream", "--step-ms")
    bare = (sys.executable, "-m", "loadtest.bare_stream", "--step-ms")
    servers = {
        "pagestream": pagestream_command(*flags, "timed"),
        "fastapi": ServerCommand(name="fastapi", command=(*usual, "7")),
        "writes alone": ServerCommand(name="bare", command=(*bare, "7")),
        "pagestream, busy": pagestream_command(*flags, "fake"),
        "fastapi, busy": ServerCommand(name="fastapi", command=(*usual, "0")),
        "writes alone, busy": ServerCommand(name="bare", command=(*bare, "0")),
    }
    for title, server in servers.items():
        with running(server) as url:
            for num_streams in arguments.streams:
                price = uvloop.run(measure(url, arguments.model, num_streams, seconds=arguments.seconds))
                print(price.row(title, num_streams), flush=True)


async def measure(url: str, model: str, num_streams: int, *, seconds: float) -> Price:
    """Let that many chats stream, and watch them for so long."""
    client = HttpClient(url, insecure=False)
    arrivals: list[Arrival] = []
    chats = [asyncio.create_task(_chat(client, model, i, arrivals)) for i in range(num_streams)]
    try:
        await asyncio.sleep(_WARM_UP_S)
        before, started_s = await _counters(client), time.perf_counter()
        arrivals.clear()
        await asyncio.sleep(seconds)
        after, spent_s = await _counters(client), time.perf_counter() - started_s
        seen = arrivals.copy()
        if ended := [chat for chat in chats if chat.done()]:
            raise RuntimeError(f"{len(ended)} of {num_streams} streams ended while they were measured")
    finally:
        for chat in chats:
            chat.cancel()
        await asyncio.gather(*chats, return_exceptions=True)
        client.close()
    num_tokens = after[_TOKENS] - before[_TOKENS]
    cpu_us = 1e6 * (after[_CPU] - before[_CPU]) / num_tokens
    return Price(cpu_us, num_tokens / spent_s, spreads_ms(seen, num_streams))


def spreads_ms(arrivals: Sequence[Arrival], num_streams: int) -> list[float]:
    """The time from the first to the last event of each step.

    A step ends where a stream has its second event, or with a pause if it is whole: nine of ten streams are enough, as
    some have nothing to say (half a character). Where one ends without a pause, the next pause is waited for: what
    comes before may be the rest of the same step. So there are none where tokens come as fast as they can.
    """
    spreads, step = list[float](), dict[int, float]()
    last_s, is_lost = 0.0, False
    for arrival in arrivals:
        is_whole, is_after_pause = len(step) >= _WHOLE * num_streams, arrival.at_s - last_s > _PAUSE_S
        if is_lost:
            is_lost = not is_after_pause
            step = {}
        elif arrival.stream in step or (is_whole and is_after_pause):
            if is_whole:
                spreads.append(1e3 * (max(step.values()) - min(step.values())))
            is_lost = not is_after_pause
            step = {}
        step[arrival.stream] = last_s = arrival.at_s
    return spreads


async def _chat(client: HttpClient, model: str, stream: int, arrivals: list[Arrival]) -> None:
    def on_body(data: bytes) -> None:
        now_s = time.perf_counter()
        arrivals.extend([Arrival(now_s, stream)] * data.count(_EVENT))

    messages = [{"role": "user", "content": f"Tell me story number {stream}."}]
    body = {"model": model, "messages": messages, "max_tokens": _MAX_TOKENS, "stream": True}
    response = await client.request(
        "POST", "/v1/chat/completions", headers=_HEADERS, body=msgspec.json.encode(body), on_body=on_body
    )
    raise RuntimeError(f"a stream ended early, with status {response.status}: {response.body.decode()[:500]}")


async def _counters(client: HttpClient) -> dict[str, float]:
    """What the gateway counts, by name, summed over labels."""
    response = await client.request("GET", "/metrics", headers={})
    counters = dict.fromkeys((_CPU, _TOKENS), 0.0)
    for line in response.body.decode().splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name in counters:
            counters[name] += float(line.rpartition(" ")[2])
    return counters


if __name__ == "__main__":
    main()
