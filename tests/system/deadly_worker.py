"""A fake worker that dies of prompts with one first token: `python -m tests.system.deadly_worker REDIS_URL`."""

import os
import signal
import sys
from array import array

from gpu_worker.fake_runner import FakeRunner
from gpu_worker.service import WorkerService
from shared.ids import RequestId
from shared.messages import WorkerCapabilities
from shared.redis_bus import RedisWorkerBus

DEADLY_TOKEN = 666
VOCAB_SIZE = 32_000
CAPABILITIES = WorkerCapabilities(
    model="demo", block_size=16, num_blocks=8192, max_model_len=4096, max_num_seqs=64, max_num_batched_tokens=512
)


def die_of(request_id: RequestId, choice: int, positions: range, tokens: "array[int]") -> None:
    if positions.start == 0 and tokens[0] == DEADLY_TOKEN:
        os._exit(9)


def main() -> int:
    bus = RedisWorkerBus.connect(sys.argv[1], "default")
    service = WorkerService(bus, FakeRunner(CAPABILITIES, vocab_size=VOCAB_SIZE, hazard=die_of))
    signal.signal(signal.SIGTERM, lambda *_: service.stop())
    try:
        return service.run()
    finally:
        bus.close()


if __name__ == "__main__":
    sys.exit(main())
