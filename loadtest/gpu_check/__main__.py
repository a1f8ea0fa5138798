"""`make gpu-check`: numerics, kernel times and throughput on this machine's GPU. Fails if a number is wrong."""

import argparse
import importlib.util
import sys
from collections.abc import Iterator

import torch

from loadtest import floor
from loadtest.gpu_check import tables
from loadtest.server import serving
from shared.checkpoint import resolve


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 if everything agrees, 1 if something does not, 2 without a GPU to ask."""
    parser = argparse.ArgumentParser(prog="make gpu-check", description=__doc__)
    parser.add_argument("--model", default="demo", help="whose throughput is measured; default: demo")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 32, 256], help="requests at once")
    options = parser.parse_args(arguments)
    if (missing := _what_is_missing()) is not None:
        print(f"make gpu-check: {missing}", file=sys.stderr)
        return 2
    agrees = True
    for line in _report(options.model, options.concurrency):
        agrees &= "**failed**" not in line
        print(line, flush=True)
    return 0 if agrees else 1


def _what_is_missing() -> str | None:
    instead = "Without a GPU, `make test-kernels` and `make kernels-aot` prove what can be proven."
    if not torch.cuda.is_available():
        return (
            f"PyTorch {torch.__version__} sees no GPU. Install its build for CUDA or ROCm (make clean; rm -r .venv; "
            "make gpu-check TORCH_INDEX=<that build's index>) and the GPU's driver, which nvidia-smi or rocm-smi asks. "
            f"{instead}"
        )
    if importlib.util.find_spec("triton") is None:
        return f"Triton is not installed: pip install 'pagestream[gpu]'. {instead}"
    from kernels.triton.device import INTERPRETED

    return "TRITON_INTERPRET is set: unset it, or kernels run on the CPU." if INTERPRETED else None


def _report(model: str, concurrency: list[int]) -> Iterator[str]:
    # Triton is only there if there is a GPU.
    import triton

    from kernels.triton.ops import TRITON
    from loadtest.gpu_check.kernel_times import kernel_times
    from loadtest.gpu_check.numerics import check_model, run_checks
    from loadtest.kernel_checks.all_checks import ALL

    device = torch.device("cuda")
    name = torch.cuda.get_device_name(device)
    runtime = torch.version.hip or torch.version.cuda
    yield f"# make gpu-check: {name}"
    yield ""
    yield f"PyTorch {torch.__version__}, Triton {triton.__version__}, CUDA or ROCm {runtime}"
    yield ""
    checkpoint = resolve(model)
    yield from tables.numerics([*run_checks(ALL, device), check_model(checkpoint, "cuda")])
    with torch.inference_mode():
        yield from tables.times(list(kernel_times(TRITON, device)), tables.roof_of(name))
    yield from tables.end_to_end(model, _throughputs(model, concurrency))


def _throughputs(model: str, concurrency: list[int]) -> list[tables.Throughput]:
    rates = [_rates(model, concurrency, *flags) for flags in ((), ("--enforce-eager",))]
    return [tables.Throughput(*row) for row in zip(concurrency, *rates, strict=True)]


def _rates(model: str, concurrency: list[int], *flags: str) -> list[float]:
    limits = ("--max-model-len", "2048", "--max-num-seqs", str(max(concurrency)), "--max-num-batched-tokens", "8192")
    with serving(model, "--device", "cuda", *limits, *flags) as url:
        floor.serve(url, model, floor.prompts(max(concurrency)))
        return [_rate(url, model, count) for count in concurrency]


def _rate(url: str, model: str, count: int) -> float:
    asked = floor.prompts(count)
    return floor.rate(lambda: floor.serve(url, model, asked), count)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
