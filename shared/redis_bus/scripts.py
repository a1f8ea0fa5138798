"""The Lua scripts of this package: what has to happen as one act on the server."""

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Self


@dataclass(frozen=True, slots=True)
class Script:
    """One script and the name that the server caches it under.

    Attributes:
        is_repeatable: Whether running it twice is as good as once, its answer included.
    """

    text: str
    sha: str
    is_repeatable: bool

    @classmethod
    def load(cls, name: str, *, is_repeatable: bool = True, package: str = "shared.redis_bus") -> Self:
        """Read `<name>.lua` of a package."""
        text = resources.files(package).joinpath(f"{name}.lua").read_text(encoding="utf-8")
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), is_repeatable)


ADMIT = Script.load("admit", is_repeatable=False)
EMIT = Script.load("emit")
REGISTER = Script.load("register")
SEAL = Script.load("seal")
LEASE = Script.load("lease")
RESIGN = Script.load("resign")
DEPOSE = Script.load("depose")
ADOPT = Script.load("adopt", is_repeatable=False)
FINISH = Script.load("finish")
KEEP = Script.load("keep")
BURY = Script.load("bury")
HEARTBEAT = Script.load("heartbeat")
HELD = Script.load("held")
