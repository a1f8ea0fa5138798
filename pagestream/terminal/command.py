"""The commands `pagestream chat` and `pagestream complete`, with the flags of vLLM's."""

from typing import Annotated

import typer

from pagestream.options import parse_count

_DEFAULT_URL = "http://127.0.0.1:8000/v1"

Url = Annotated[str, typer.Option(help="Of the server's API.")]
ModelName = Annotated[str | None, typer.Option(help="As the server calls it. Default: the first that it has.")]
ApiKey = Annotated[str | None, typer.Option(envvar=["PAGESTREAM_API_KEY", "OPENAI_API_KEY"], help="The server's key.")]
MaxTokens = Annotated[
    int | None, typer.Option(parser=parse_count, metavar="COUNT", help="Of an answer. Default: the server's.")
]
Temperature = Annotated[float | None, typer.Option(min=0.0, max=2.0, help="Default: the server's.")]
SystemPrompt = Annotated[str | None, typer.Option(help="What the model is told first.")]
QuickMessage = Annotated[str | None, typer.Option("--quick", "-q", metavar="MESSAGE", help="Answer this, and end.")]
QuickPrompt = Annotated[str | None, typer.Option("--quick", "-q", metavar="PROMPT", help="Complete this, and end.")]


def chat(
    *,
    url: Url = _DEFAULT_URL,
    model_name: ModelName = None,
    api_key: ApiKey = None,
    system_prompt: SystemPrompt = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    quick: QuickMessage = None,
) -> int:
    """Talk to a server's model. Ctrl-C stops an answer, /reset begins anew, Ctrl-D ends."""
    # What talks and draws: 0.3 s that the services do without.
    from rich.console import Console

    from pagestream.terminal.conversation import Conversation
    from pagestream.terminal.dialogue import run, write
    from pagestream.terminal.openai_client import OpenAIClient

    console = Console(highlight=False)
    with OpenAIClient(url, api_key) as client:
        parameters = _parameters(model_name or client.first_model(), max_tokens, temperature)
        conversation = Conversation(client, parameters, system_prompt=system_prompt)
        if quick is not None:
            write(conversation.say(quick), console)
        else:
            run(conversation.say, console)
    return 0


def complete(
    *,
    url: Url = _DEFAULT_URL,
    model_name: ModelName = None,
    api_key: ApiKey = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    quick: QuickPrompt = None,
) -> int:
    """Have a server's model go on with a text. Ctrl-C stops it, Ctrl-D ends."""
    # What talks and draws: 0.3 s that the services do without.
    from rich.console import Console

    from pagestream.terminal.dialogue import run, write
    from pagestream.terminal.openai_client import OpenAIClient

    console = Console(highlight=False)
    with OpenAIClient(url, api_key) as client:
        parameters = _parameters(model_name or client.first_model(), max_tokens, temperature)
        if quick is not None:
            write(client.complete(quick, parameters), console)
        else:
            run(lambda prompt: client.complete(prompt, parameters), console)
    return 0


def _parameters(model: str, max_tokens: int | None, temperature: float | None) -> dict[str, object]:
    given = {"model": model, "max_tokens": max_tokens, "temperature": temperature}
    return {name: value for name, value in given.items() if value is not None}
