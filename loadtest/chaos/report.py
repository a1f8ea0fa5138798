"""A run of chaos as text for a person, and as JSON."""

from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from loadtest.chaos.faults import Happened
from loadtest.chaos.memory import Growth
from loadtest.chaos.scenario import Scenario
from loadtest.chaos.stalls import Stall
from loadtest.chaos.verdict import Verdict

_WIDTH: Final = 72
_SHOWN: Final = 10
_MIB: Final = 2**20
_SLACK_S: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosResult:
    """One run.

    Attributes:
        name: Of the scenario.
        faults: In order of their starts.
        recoveries_s: After each fault that was waited for, the time from its end until the pool was whole.
        stalls: Pauses of a second and more within answers.
        ttfts_s: Times to the first tokens.
        standstill_s: How long the machine did not let the clients run.
        left: What was left behind.
        memory: Of processes that lived through the load's second half.
        breakdown: What ended the run early, if something did.
    """

    name: str
    scenario: Scenario
    duration_s: float
    faults: list[Happened]
    recoveries_s: list[float]
    verdict: Verdict
    num_refused: int
    num_resumed: int
    stalls: list[Stall]
    ttfts_s: list[float]
    standstill_s: float
    left: list[str]
    memory: Mapping[str, Growth]
    breakdown: str | None = None

    @property
    def stalls_s(self) -> list[float]:
        """The stalls' lengths."""
        return [stall.length_s for stall in self.stalls]

    @property
    def worst_s(self) -> dict[str, float]:
        """The longest stall after each kind of fault, and before the next one's start; 0 if there was none."""
        worst: dict[str, float] = {fault.name: 0.0 for fault in self.faults}
        starts_s = [fault.start_s for fault in self.faults]
        for stall in self.stalls:
            # A stall begins with the last token before its cause.
            place = bisect(starts_s, stall.start_s + _SLACK_S) - 1
            if place >= 0:
                name = self.faults[place].name
                worst[name] = max(worst[name], stall.length_s)
        return worst

    @property
    def violations(self) -> list[str]:
        """Everything that must not be; empty for a good run."""
        scenario = self.scenario
        found = [] if self.breakdown is None else [self.breakdown]
        found += self.verdict.faulty
        found += [f"left behind: {what}" for what in self.left]
        if not self.verdict.num_answers:
            found.append("no request was answered")
        if len(self.faults) < scenario.num_faults:
            found.append(f"only {len(self.faults)} of {scenario.num_faults} faults could be inflicted")
        stall_s, most_s = percentile(self.stalls_s, 99), scenario.max_stall_p99_s
        if most_s is not None and stall_s > most_s:
            found.append(f"99 % of the stalls took up to {stall_s:.2f} s, more than {most_s:g} s")
        most = scenario.max_memory_growth
        found += [
            f"{name} grew by {growth.share:.1%}, more than {most:.0%}"
            for name, growth in self.memory.items()
            if most is not None and growth.share > most
        ]
        return found


def percentile(values: list[float], which: float) -> float:
    """Interpolated; 0 of nothing."""
    return float(np.percentile(values, which)) if values else 0.0


def as_text(result: ChaosResult) -> str:
    """What is printed."""
    return "\n".join(
        [
            f" Chaos: {result.name} ".center(_WIDTH, "="),
            *_load(result),
            *_faults(result),
            *_waits(result),
            *_rest(result),
            *_conclusion(result),
            "=" * _WIDTH,
        ]
    )


def as_json(result: ChaosResult) -> dict[str, object]:
    """What is saved."""
    lost, doubled, wrong = result.verdict.differences
    return {
        "scenario": result.name,
        "seed": result.scenario.seed,
        "runner": result.scenario.runner,
        "streams": result.scenario.streams,
        "duration": result.duration_s,
        "num_faults": len(result.faults),
        "num_faults_by_name": Counter(fault.name for fault in result.faults),
        "max_stall_s_by_fault": result.worst_s,
        "answered": result.verdict.num_answers,
        "broken": result.verdict.num_broken,
        "refused": result.num_refused,
        "resumed": result.num_resumed,
        "tokens": result.verdict.num_tokens,
        "lost_tokens": lost,
        "doubled_tokens": doubled,
        "wrong_tokens": wrong,
        "p50_stall_s": percentile(result.stalls_s, 50),
        "p99_stall_s": percentile(result.stalls_s, 99),
        "max_stall_s": percentile(result.stalls_s, 100),
        "num_stalls": len(result.stalls_s),
        "p50_ttft_s": percentile(result.ttfts_s, 50),
        "p99_ttft_s": percentile(result.ttfts_s, 99),
        "p99_recovery_s": percentile(result.recoveries_s, 99),
        "standstill": result.standstill_s,
        "memory_bytes": {name: [growth.before, growth.after] for name, growth in result.memory.items()},
        "violations": result.violations,
    }


def _load(result: ChaosResult) -> Iterator[str]:
    verdict = result.verdict
    lost, doubled, wrong = verdict.differences
    yield _line("Duration (s):", f"{result.duration_s:.1f}")
    yield _line("Streams at once:", result.scenario.streams)
    yield _line("Answers:", verdict.num_answers)
    yield _line("Tokens:", verdict.num_tokens)
    yield _line("Tokens lost, doubled, wrong:", f"{lost}, {doubled}, {wrong}")
    yield _line("Faulty answers:", len(verdict.faulty))
    yield _line("Streams broken off, resumed:", f"{verdict.num_broken}, {result.num_resumed}")
    yield _line("Refused, and sent again:", result.num_refused)


def _faults(result: ChaosResult) -> Iterator[str]:
    if not result.faults:
        return
    yield f" {len(result.faults)} faults, and the longest stall after each (s) ".center(_WIDTH, "-")
    counts, worst_s = Counter(fault.name for fault in result.faults), result.worst_s
    cells = [f"{count:>3} {name:<17} {worst_s[name]:.1f}" for name, count in sorted(counts.items())]
    for start in range(0, len(cells), 3):
        yield "".join(f"{cell:<24}" for cell in cells[start : start + 3]).rstrip()


def _waits(result: ChaosResult) -> Iterator[str]:
    yield " Waits (s) ".center(_WIDTH, "-")
    for what, values in (
        (f"Stalls ({len(result.stalls_s)} of 1 s or more):", result.stalls_s),
        ("Time to first token:", result.ttfts_s),
        ("Until the pool is whole:", result.recoveries_s),
    ):
        p50, p99, most = (percentile(values, which) for which in (50, 99, 100))
        yield _line(what, f"P50 {p50:.2f}   P99 {p99:.2f}   max {most:.2f}")
    if result.standstill_s:
        yield _line("The machine stood still:", f"{result.standstill_s:.1f}")


def _rest(result: ChaosResult) -> Iterator[str]:
    yield " Afterwards ".center(_WIDTH, "-")
    yield _line("Left in Redis, blocks held:", ", ".join(result.left) or "nothing")
    for name, growth in result.memory.items():
        yield _line(
            f"Memory of {name}:", f"{growth.before / _MIB:.1f} -> {growth.after / _MIB:.1f} MiB ({growth.share:+.1%})"
        )


def _conclusion(result: ChaosResult) -> Iterator[str]:
    yield " Verdict ".center(_WIDTH, "-")
    violations = result.violations
    yield "No violation." if not violations else f"{len(violations)} violations:"
    yield from violations[:_SHOWN]
    if len(violations) > _SHOWN:
        yield f"... and {len(violations) - _SHOWN} more"


def _line(label: str, value: object) -> str:
    return f"{label:<32} {value}"
