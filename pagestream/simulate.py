"""`pagestream simulate`: the whole stack in one thread, broken in every way that a seed chooses."""

import os
from typing import Annotated

import typer

from shared.errors import ConfigurationError

_SEED = typer.Option(help="Simulate this one.", min=0)
_SEEDS = typer.Option(help="Simulate these, as FIRST:STOP, until one fails.", metavar="FIRST:STOP")
_PROCESSES = typer.Option(help="How many go through the seeds. Default: one for each core.", min=1)
_TRACE = typer.Option("--trace", help="Tell all that happens; with --seed.")


def simulate(
    *,
    seed: Annotated[int | None, _SEED] = None,
    seeds: Annotated[str, _SEEDS] = "0:1000",
    processes: Annotated[int | None, _PROCESSES] = None,
    trace: Annotated[bool, _TRACE] = False,
) -> int:
    """Prove that nothing kills a stream: scheduler, workers and gateways on a simulated Redis, network and clock.

    The same seed goes the same way again. Fails if a token is lost, repeated or wrong, a request does not end, a plan
    is impossible, or something is left at the end.
    """
    # What the services' commands do not need at their start.
    from tqdm import tqdm

    from loadtest.simulation.run import Gone, search, tell

    if seed is not None and trace:
        for line in tell(seed):
            typer.echo(line)
    chosen = range(seed, seed + 1) if seed is not None else _range_of(seeds)
    gone = Gone(chosen.start)
    with tqdm(total=len(chosen), unit=" seeds", disable=None if len(chosen) > 1 else True) as progress:
        try:
            for gone in search(chosen, num_processes=processes or os.cpu_count() or 1):
                progress.update(gone.stop - chosen.start - progress.n)
        except KeyboardInterrupt:
            progress.close()
            typer.echo(
                f"stopped at seed {gone.stop}; in {gone.stop - chosen.start} seeds nothing was lost, repeated or left"
            )
            return 130
    if gone.failure is None:
        typer.echo(f"{len(chosen)} seeds: nothing was lost, repeated or left")
        return 0
    seed, error = gone.failure
    typer.echo(f"seed {seed} failed, {type(error).__name__}: {error}", err=True)
    typer.echo(f"pagestream simulate --seed {seed} --trace tells how", err=True)
    return 1


def _range_of(seeds: str) -> range:
    first, _, stop = seeds.partition(":")
    if not (first.isdecimal() and stop.isdecimal()) or int(stop) <= int(first):
        raise ConfigurationError(f"--seeds is {seeds!r}: give the first one and the one to stop before, as in 0:1000")
    return range(int(first), int(stop))
