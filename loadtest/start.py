"""`make bench-start`: seconds from the command to the first token of an answer."""

import time

import httpx

from loadtest.server import serving

_CHAT = {"model": "demo", "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 1}


def main() -> None:
    """Start the stack on the demo model three times."""
    for _ in range(3):
        started = time.monotonic()
        with serving("demo") as url:
            healthy_s = time.monotonic() - started
            httpx.post(f"{url}/v1/chat/completions", json=_CHAT, timeout=60).raise_for_status()
            print(f"healthy after {healthy_s:.1f} s, first token after {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
