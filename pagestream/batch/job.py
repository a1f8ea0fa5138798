"""One run of `pagestream run-batch`, from the files to the last line on the terminal."""

import asyncio
from dataclasses import dataclass

import uvicorn
from rich.console import Console

from gateway.settings import GatewaySettings
from gateway.tokenizers.tokenizer import Tokenizer
from gateway.tokenizers.tokenizer_loading import load_tokenizer
from gpu_worker.runner import Runner
from gpu_worker.runner_building import build_runner
from gpu_worker.settings import WorkerSettings
from loadtest.progress import progress_of
from pagestream.batch.local_pool import local_pool
from pagestream.batch.runner import BatchFiles, Tally, run_batch
from shared.checkpoint import resolve
from shared.model_config import ModelConfig


@dataclass(frozen=True)
class BatchJob:
    """What is to be done.

    Attributes:
        max_at_once: Requests under way.
    """

    files: BatchFiles
    worker: WorkerSettings
    gateway: GatewaySettings
    max_at_once: int

    def run(self) -> int:
        """Do it, and say what came of it. Returns the exit status: 0, whatever single lines ended with.

        Raises:
            ConfigurationError: a file or a setting is wrong.
            KeyboardInterrupt: somebody pressed Ctrl-C; what was answered is in the output.
        """
        self.files.check()
        checkpoint = resolve(self.worker.model)
        tokenizer = load_tokenizer(checkpoint, ModelConfig.from_checkpoint(checkpoint))
        runner = build_runner(self.worker)
        console, tally = Console(stderr=True, highlight=False), Tally()
        try:
            with asyncio.Runner(loop_factory=uvicorn.Config("", loop="auto").get_loop_factory()) as loop:
                loop.run(self._answer(runner, tokenizer, tally))
        finally:
            console.print(
                f"{tally.num_answered:,} answered, {tally.num_failed:,} failed: {self.files.target}",
                markup=False,
                soft_wrap=True,
            )
        return 0

    async def _answer(self, runner: Runner, tokenizer: Tokenizer, tally: Tally) -> None:
        async with local_pool(runner, tokenizer, self.gateway) as pool:
            with progress_of("requests", self.files.count_lines(), is_wanted=True) as advance:
                await run_batch(pool, self.files, tally, max_at_once=self.max_at_once, on_result=advance)
