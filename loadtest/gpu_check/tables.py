"""The report's tables, from what was found. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kernels.roofline import GPUS, Gpu, KernelWork


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One `KernelCheck` on the device.

    Attributes:
        error: The largest of its outputs' errors, as a part of what is allowed; the error itself where none is.
        fault: What the kernel raised; None if it ran.
    """

    name: str
    kernels: tuple[str, ...]
    agrees: bool
    error: float = 0.0
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class KernelTime:
    """One `KernelCase` on the device.

    Attributes:
        weights: How the model's matrices are stored.
        seconds: Of one call.
        work: Of one call.
    """

    weights: str
    size: str
    seconds: float
    work: KernelWork


@dataclass(frozen=True, slots=True)
class Throughput:
    """Output tokens per second with so many requests at once, steps captured and op by op."""

    num_requests: int
    captured: float
    eager: float


def roof_of(device_name: str) -> Gpu | None:
    """The roof of a GPU by the name that its driver gives; None if it is not among `kernels.roofline.GPUS`."""
    name = device_name.lower()
    return next((gpu for key, gpu in GPUS.items() if key in name), None)


def numerics(results: Sequence[CheckResult]) -> Iterator[str]:
    """By kernel, and every check that failed."""
    num_agreeing = sum(result.agrees for result in results)
    yield f"## Numerics: {num_agreeing} of {len(results)} checks agree"
    yield ""
    by_kernel: dict[str, list[CheckResult]] = {}
    for result in results:
        for kernel in result.kernels:
            by_kernel.setdefault(kernel, []).append(result)
    rows = [
        (
            kernel,
            f"{sum(result.agrees for result in own)} of {len(own)}",
            f"{max((result.error for result in own if result.fault is None), default=float('nan')):.2f}",
        )
        for kernel, own in by_kernel.items()
    ]
    yield from _table(("kernel", "checks that agree", "largest error, of what is allowed"), rows)
    for result in results:
        if not result.agrees:
            why = result.fault or f"off by {result.error:.3g} times what is allowed"
            yield f"- **failed**: {result.kernels[-1]}: {result.name}: {why}"
    yield ""


def times(found: Iterable[KernelTime], gpu: Gpu | None) -> Iterator[str]:
    """Beside the roof, where that is known; 100 % is the roof, more is what came from a cache."""
    roof = f"the roof of an {gpu.name}" if gpu else "this GPU's roof is not known"
    yield f"## Kernel times ({roof}; docs/roofline.md)"
    yield ""
    rows = [
        (
            time.weights,
            time.work.kernel,
            time.size,
            f"{time.seconds * 1e6:,.1f}",
            f"{time.work.num_bytes / time.seconds / 1e9:,.0f}",
            f"{time.work.flops / time.seconds / 1e12:,.1f}" if time.work.flops else "",
            f"{time.work.seconds(gpu) / time.seconds:.0%}" if gpu else "",
        )
        for time in found
    ]
    yield from _table(("weights", "kernel", "of", "µs", "GB/s", "TFLOP/s", "of the roof"), rows)


def end_to_end(model: str, found: Iterable[Throughput]) -> Iterator[str]:
    """The whole stack."""
    yield f"## The whole stack: {model}, output tokens/s"
    yield ""
    rows = [(str(one.num_requests), f"{one.captured:,.0f}", f"{one.eager:,.0f}") for one in found]
    yield from _table(("requests at once", "captured steps", "--enforce-eager"), rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"| {' | '.join('---' for _ in heads)} |"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
