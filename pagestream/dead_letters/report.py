"""Dead letters in words. Prompts are not shown unless they are asked for."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from shared.dead_letters import DeadLetter, FiledLetter
from shared.errors import MessageError
from shared.messages import Submit, decode_inbound
from shared.packing import unpack_u32


def request_of(letter: DeadLetter) -> Submit | None:
    """The request that the letter is about, if it is about one and can be read."""
    try:
        message = decode_inbound(letter.message)
    except MessageError:
        return None
    return message if isinstance(message, Submit) else None


def as_json(filed: FiledLetter, *, with_prompt: bool) -> str:
    """One line."""
    return msgspec.json.encode(_facts(filed, with_prompt=with_prompt)).decode()


def show_list(letters: Sequence[FiledLetter], console: Console) -> None:
    """A row for each letter."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("id", "given up", "cause", "request", "deaths"):
        table.add_column(heading, overflow="fold")
    for letter_id, letter in letters:
        table.add_row(
            letter_id, _moment(letter.at_ms), letter.cause.value, letter.request_id or "-", str(len(letter.deaths))
        )
    console.print(table)


def show_letter(filed: FiledLetter, console: Console, *, with_prompt: bool) -> None:
    """Everything about one letter, its history last."""
    for name, value in _facts(filed, with_prompt=with_prompt).items():
        if name != "deaths":
            console.print(f"{name}: {value}", markup=False, soft_wrap=True)
    for death in filed.letter.deaths:
        company = "alone" if death.num_suspects == 1 else f"with {death.num_suspects - 1} others"
        console.print(
            f"  {_moment(death.at_ms)}  worker {death.worker_id} died ({death.reason}) while it computed this request "
            f"{company}, after {death.num_output_tokens} output tokens",
            markup=False,
            soft_wrap=True,
        )


def _facts(filed: FiledLetter, *, with_prompt: bool) -> dict[str, Any]:
    letter, request = filed.letter, request_of(filed.letter)
    facts: dict[str, Any] = {
        "id": filed.letter_id,
        "given_up": _moment(letter.at_ms),
        "cause": letter.cause.value,
        "reason": letter.reason,
        "source": letter.source,
        "request_id": letter.request_id,
        "gateway_id": letter.gateway_id,
        "num_bytes": len(letter.message),
    }
    if request is not None:
        facts["num_prompt_tokens"] = len(request.prompt) // 4
        facts["sampling"] = msgspec.to_builtins(request.sampling)
        if with_prompt:
            facts["prompt_token_ids"] = list(unpack_u32(request.prompt))
    elif with_prompt:
        facts["bytes"] = letter.message.hex()
    facts["deaths"] = [msgspec.structs.asdict(death) for death in letter.deaths]
    return facts


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
