"""The commands `pagestream dlq list|show|retry|drop`."""

import asyncio
from typing import Annotated

import typer

from gateway.settings import GatewaySettings
from pagestream import options
from pagestream.dead_letters.retry import compute_again
from shared.dead_letters import DEAD_LETTERS_KEPT, FiledLetter
from shared.demo_model import DEMO
from shared.errors import NotFoundError

_POOL = "default"
_DEFAULTS = GatewaySettings(pool=_POOL, model=DEMO)

app = typer.Typer(
    help="Requests that were given up, since they kill workers, and messages that nobody can read.",
    no_args_is_help=True,
)

LetterId = Annotated[str, typer.Argument(metavar="ID", help="As `pagestream dlq list` prints it.")]
LetterIds = Annotated[list[str] | None, typer.Argument(metavar="ID", help="As `pagestream dlq list` prints it.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=DEAD_LETTERS_KEPT, help="The newest so many.")]
WithPrompt = Annotated[bool, typer.Option("--prompt", help="Print the prompt's token ids, or the bytes, too.")]
All = Annotated[bool, typer.Option("--all", help="All of them.")]


@app.command("list")
def list_letters(
    *,
    limit: Limit = 50,
    redis_url: options.RedisUrl = _DEFAULTS.redis_url,
    pool: options.Pool = _POOL,
    as_json: options.AsJson = False,
) -> int:
    """Print what was given up, the newest first."""
    # Redis's client: what the other commands do not need at their start.
    from rich.console import Console

    from pagestream.dead_letters.report import as_json as letter_as_json
    from pagestream.dead_letters.report import show_list

    async def read() -> list[FiledLetter]:
        from shared.redis_bus import RedisDeadLetterBox

        box = RedisDeadLetterBox(redis_url, pool)
        try:
            return await box.letters(limit=limit)
        finally:
            await box.close()

    letters = asyncio.run(read())
    if as_json:
        for letter in letters:
            typer.echo(letter_as_json(letter, with_prompt=False))
    elif letters:
        show_list(letters, Console(highlight=False))
    return 0


@app.command()
def show(
    letter_id: LetterId,
    *,
    with_prompt: WithPrompt = False,
    redis_url: options.RedisUrl = _DEFAULTS.redis_url,
    pool: options.Pool = _POOL,
    as_json: options.AsJson = False,
) -> int:
    """Print one of them with its history."""
    from rich.console import Console

    from pagestream.dead_letters.report import as_json as letter_as_json
    from pagestream.dead_letters.report import show_letter

    letter = asyncio.run(_find(letter_id, redis_url, pool))
    if as_json:
        typer.echo(letter_as_json(letter, with_prompt=with_prompt))
    else:
        show_letter(letter, Console(highlight=False), with_prompt=with_prompt)
    return 0


@app.command()
def retry(letter_id: LetterId, *, redis_url: options.RedisUrl = _DEFAULTS.redis_url, pool: options.Pool = _POOL) -> int:
    """Compute a request once more, with this command as its client; it is dropped if that succeeds."""
    from pagestream.dead_letters.report import request_of
    from shared.redis_bus import RedisGatewayBus

    async def run() -> list[list[int]]:
        filed = await _find(letter_id, redis_url, pool)
        request = request_of(filed.letter)
        if request is None:
            raise NotFoundError(f"dead letter {letter_id} holds no request that this version can read; drop it")
        bus = await RedisGatewayBus.connect(redis_url, pool)
        try:
            outputs = await compute_again(bus, request)
        finally:
            await bus.close()
        await _drop([letter_id], redis_url, pool)
        return outputs

    for choice, output in enumerate(asyncio.run(run())):
        typer.echo(f"choice {choice}: {len(output)} output tokens: {' '.join(map(str, output))}")
    return 0


@app.command()
def drop(
    letter_ids: LetterIds = None,
    *,
    everything: All = False,
    redis_url: options.RedisUrl = _DEFAULTS.redis_url,
    pool: options.Pool = _POOL,
) -> int:
    """Throw some of them away."""
    if bool(letter_ids) == everything:
        raise typer.BadParameter("name the letters to drop, or give --all")
    typer.echo(f"{asyncio.run(_drop(letter_ids, redis_url, pool))} dropped")
    return 0


async def _find(letter_id: str, redis_url: str, pool: str) -> FiledLetter:
    from shared.redis_bus import RedisDeadLetterBox

    box = RedisDeadLetterBox(redis_url, pool)
    try:
        letter = await box.letter(letter_id)
    finally:
        await box.close()
    if letter is None:
        raise NotFoundError(f"pool {pool} has no dead letter {letter_id!r}; `pagestream dlq list` shows those it has")
    return letter


async def _drop(letter_ids: list[str] | None, redis_url: str, pool: str) -> int:
    """Those named, or all of them."""
    from shared.redis_bus import RedisDeadLetterBox

    box = RedisDeadLetterBox(redis_url, pool)
    try:
        if letter_ids is None:
            letter_ids = [filed.letter_id for filed in await box.letters(limit=2 * DEAD_LETTERS_KEPT)]
        return await box.drop(letter_ids)
    finally:
        await box.close()
