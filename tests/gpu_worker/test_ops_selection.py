import sys

import pytest
import torch

from gpu_worker.ops_selection import choose_ops
from kernels.native_build import NativeBuildError, Toolchain
from kernels.ops import CPU, REFERENCE
from kernels.triton.ops import TRITON
from shared.errors import ConfigurationError

CPU_DEVICE = torch.device("cpu")


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAGESTREAM_CPU_KERNELS", raising=False)


@pytest.fixture
def _needs_compiler() -> None:
    try:
        Toolchain.find()
    except NativeBuildError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("_needs_compiler")
def test_a_cpu_runs_the_native_library() -> None:
    assert choose_ops(CPU_DEVICE, block_size=16, head_dim=64).name.startswith("native ")


def test_a_gpu_runs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    assert choose_ops(gpu, block_size=16, head_dim=64) is TRITON
    monkeypatch.setitem(sys.modules, "kernels.triton.ops", None)
    assert choose_ops(gpu, block_size=16, head_dim=64) is REFERENCE


def test_other_devices_run_pytorch() -> None:
    assert choose_ops(torch.device("meta"), block_size=16, head_dim=64) is REFERENCE


def test_the_environment_forces_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGESTREAM_CPU_KERNELS", "torch")
    assert choose_ops(CPU_DEVICE, block_size=16, head_dim=64) is CPU


@pytest.mark.usefixtures("_needs_compiler")
def test_the_environment_forces_an_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGESTREAM_CPU_KERNELS", "portable")
    assert choose_ops(CPU_DEVICE, block_size=16, head_dim=64).name == "native portable"


@pytest.mark.usefixtures("_needs_compiler")
@pytest.mark.parametrize("kernels", ["torch", "portable"])
def test_a_step_on_a_cpu_need_not_be_large(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGESTREAM_CPU_KERNELS", kernels)
    assert choose_ops(CPU_DEVICE, block_size=16, head_dim=64).num_efficient_tokens == 64
    assert TRITON.num_efficient_tokens is None


def test_a_word_that_means_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGESTREAM_CPU_KERNELS", "fast")
    with pytest.raises(ConfigurationError, match="PAGESTREAM_CPU_KERNELS is 'fast'; use one of torch, native"):
        choose_ops(CPU_DEVICE, block_size=16, head_dim=64)


def test_without_a_compiler_pytorch_runs_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert choose_ops(CPU_DEVICE, block_size=16, head_dim=64) is CPU
    assert "no-such-compiler" in caplog.text
    monkeypatch.setenv("PAGESTREAM_CPU_KERNELS", "native")
    with pytest.raises(ConfigurationError, match="no-such-compiler"):
        choose_ops(CPU_DEVICE, block_size=16, head_dim=64)


def test_shapes_the_library_cannot_take_run_in_pytorch(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_ops(CPU_DEVICE, block_size=8, head_dim=64) is CPU
    assert "--block-size" in caplog.text
