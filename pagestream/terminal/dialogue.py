"""Reading lines and writing answers, until the end of the input."""

import contextlib
import sys
from collections.abc import Callable, Generator

from rich.console import Console
from rich.style import Style

from pagestream.terminal.openai_client import Piece, ServerError

with contextlib.suppress(ImportError):
    import readline  # noqa: F401 - lets `input` edit lines and remember them

_PROMPT = "> "
_THOUGHT = Style(dim=True)


def write(pieces: Generator[Piece, None, None], console: Console) -> None:
    """Print pieces as they come. Ctrl-C ends them, and nothing else.

    Raises:
        ServerError: the server ended them.
    """
    has_begun = False
    try:
        for piece in pieces:
            has_begun = True
            style = _THOUGHT if piece.is_reasoning else None
            console.print(piece.text, end="", style=style, markup=False, highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        console.print(" ...", end="")
    finally:
        pieces.close()
        if has_begun:
            console.print()


def run(answer: Callable[[str], Generator[Piece, None, None]], console: Console) -> None:
    """Answer line after line. A refused one is told and forgotten; Ctrl-C or Ctrl-D at the prompt ends it."""
    prompt = _PROMPT if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt)
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if not line.strip():
            continue
        try:
            write(answer(line), console)
        except ServerError as error:
            console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
