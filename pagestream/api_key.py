"""`pagestream api-key`: a new key for a server's clients."""

import json
import secrets
from typing import Annotated

import typer

from gateway.access.keyring import digest

_NUM_BYTES = 32


def new_api_key(name: Annotated[str, typer.Argument(help="Whose key it is.")]) -> int:
    """Make an API key: the key itself, and what to add to the file of --api-key-file, which does not tell it."""
    key = f"sk-{secrets.token_urlsafe(_NUM_BYTES)}"
    typer.echo(f"the key, which is not shown again: {key}", err=True)
    typer.echo(f'[[key]]\nname = {json.dumps(name)}\nsha256 = "{digest(key)}"')
    return 0
