"""What `pagestream chaos` is told, each field named like its flag."""

from dataclasses import dataclass
from pathlib import Path

from loadtest.settings import PickedSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosSettings(PickedSettings):
    """Which scenarios to run, one after another.

    Attributes:
        scenario: Names, or files.
        seed: Instead of the scenarios' own.
        num_faults: Likewise.
    """

    scenario: tuple[str, ...] = ("all",)
    seed: int | None = None
    num_faults: int | None = None
    disable_tqdm: bool = False
    save_result: bool = False
    result_dir: Path | None = None
    result_filename: str | None = None
