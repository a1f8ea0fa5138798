"""The command `pagestream chaos`: reads flags, and has `loadtest.chaos` break things."""

from pathlib import Path
from typing import Annotated

import typer

from loadtest.chaos.settings import ChaosSettings

_DEFAULT = ChaosSettings()


def chaos(
    *,
    scenario: Annotated[
        list[str] | None,
        typer.Option("--scenario", metavar="NAME|FILE", help="What to run; repeat it for more. Default: all."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of requests and faults, instead of the scenario's.")
    ] = None,
    num_faults: Annotated[
        int | None, typer.Option("--num-faults", min=0, help="How many. Default: as the scenario says.")
    ] = None,
    disable_tqdm: Annotated[bool, typer.Option("--disable-tqdm", help="Draw no progress bar.")] = False,
    save_result: Annotated[bool, typer.Option("--save-result", help="Write the result to a JSON file.")] = False,
    result_dir: Annotated[Path | None, typer.Option("--result-dir", help="Where to write it. Default: here.")] = None,
    result_filename: Annotated[
        str | None, typer.Option("--result-filename", help="Default: named by the time of the run.")
    ] = None,
) -> int:
    """Break real services under load, and count every token. Fails if one is lost, doubled or wrong."""
    # The clients and the services' core: 0.5 s that the other commands do not need.
    from loadtest.chaos.run import run

    return run(
        ChaosSettings(
            scenario=tuple(scenario or _DEFAULT.scenario),
            seed=seed,
            num_faults=num_faults,
            disable_tqdm=disable_tqdm,
            save_result=save_result,
            result_dir=result_dir,
            result_filename=result_filename,
        )
    )
