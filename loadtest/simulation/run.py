"""Many seeds, one after another, and what is told of the first that fails."""

import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from loadtest.simulation.simulation import Simulation

_SHARE: Final = 50


class Failure(NamedTuple):
    """A seed that failed, and how."""

    seed: int
    error: Exception


class Gone(NamedTuple):
    """How far a search has come: all seeds before `stop`, and the failure at which it ends."""

    stop: int
    failure: Failure | None = None


def first_failure(seeds: Iterable[int], simulate: Callable[[int], Simulation] = Simulation) -> Failure | None:
    """Go through seeds until one fails."""
    with _silent_services():
        for seed in seeds:
            try:
                simulate(seed).run()
            except Exception as error:  # whatever it is: it ends this seed, and is told
                return Failure(seed, error)
    return None


def search(seeds: range, *, num_processes: int) -> Iterator[Gone]:
    """Go through seeds until one fails, on several cores. Tells again and again how far it is."""
    shares = [seeds[start : start + _SHARE] for start in range(0, len(seeds), _SHARE)]
    with multiprocessing.Pool(num_processes, _leave_signals) as pool:
        for share, failure in zip(shares, pool.imap(first_failure, shares), strict=True):
            yield Gone(share.stop, failure)
            if failure:
                return


def tell(seed: int) -> Iterator[str]:
    """The whole story of one seed, line by line, and how it ended."""
    simulation = Simulation(seed, is_told=True)
    with _silent_services():
        try:
            simulation.run()
            ending = "nothing was lost, repeated or left"
        except Exception as error:  # it is the story's end
            ending = f"{type(error).__name__}: {error}"
    yield f"seed {seed}: {simulation.scenario.capabilities}"
    yield from simulation.story
    yield f"{simulation.kernel.now_s:9.4f} {ending}"


def _leave_signals() -> None:
    """Ctrl-C is for the process that began this: it ends the others, by SIGTERM, whatever handler they got from it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _silent_services() -> Iterator[None]:
    """What services log of faults is no news here."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
