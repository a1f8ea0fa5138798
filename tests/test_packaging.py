"""What importing our packages brings, and what it does not."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ["gateway", "gpu_worker", "kernels", "loadtest", "pagestream", "scheduler_svc", "shared"]

IMPORT_ALL_AS_IF_TORCH_WERE_NOT_INSTALLED = """
import importlib, importlib.machinery, pkgutil, sys

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in {"torch", "triton", "safetensors"} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Finder
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        importlib.import_module(module.name)
        print(module.name)
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_our_package_is_the_one_that_is_imported(package: str) -> None:
    found = importlib.import_module(package).__file__

    assert found is not None
    assert Path(found).parent == ROOT / package


def test_kernels_does_not_look_like_hugging_faces_package_of_that_name() -> None:
    assert not hasattr(importlib.import_module("kernels"), "__version__")


def test_the_control_plane_imports_without_torch() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL_AS_IF_TORCH_WERE_NOT_INSTALLED, "shared", "scheduler_svc", "gateway"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    expected = {
        f"{package}.{module.stem}"
        for package in ("shared", "scheduler_svc", "gateway")
        for module in (ROOT / package).glob("[!_]*.py")
    }
    assert expected <= set(ended.stdout.split())


def test_the_command_line_starts_without_torch_transformers_or_a_web_framework() -> None:
    program = "import sys, pagestream.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert not {"torch", "transformers", "fastapi", "redis", "huggingface_hub"} & set(loaded.stdout.split())


def test_the_workers_image_compiles_the_kernels_by_what_it_has_copied_until_then(tmp_path: Path) -> None:
    dockerfile = (ROOT / "compose/Dockerfile.worker").read_text()
    before, prebuild, _ = dockerfile.partition("RUN python -m gpu_worker.prebuild")
    assert prebuild
    for line in before.splitlines():
        command, *sources = line.split()[:-1] or [""]
        if command == "COPY":
            for source in sources:
                place = tmp_path / source
                place.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, place)

    program = "import sys, gpu_worker.prebuild as found; print(found.__file__); sys.exit(found.main([]))"
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(str(tmp_path))
