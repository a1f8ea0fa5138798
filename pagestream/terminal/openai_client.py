"""Any server with OpenAI's API, as a terminal needs it: streams of text pieces."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import httpx2
import msgspec

from shared.errors import PagestreamError

_CONNECT_TIMEOUT_S: Final = 10.0
_DONE: Final = "[DONE]"
_MAX_SHOWN_CHARACTERS: Final = 300

Message = dict[str, str]


class ServerError(PagestreamError):
    """The server cannot be reached, or refuses. The message is for the person at the terminal."""


class Piece(NamedTuple):
    """Some more text.

    Attributes:
        is_reasoning: The model thinks aloud.
    """

    text: str
    is_reasoning: bool = False


class _Error(msgspec.Struct):
    message: str


class _ErrorBody(msgspec.Struct):
    error: _Error


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    text: str = ""

    def pieces(self) -> Iterator[Piece]:
        if thought := self.delta.reasoning or self.delta.reasoning_content:
            yield Piece(thought, is_reasoning=True)
        if text := self.delta.content or self.text:
            yield Piece(text)


class _Chunk(msgspec.Struct):
    choices: tuple[_Choice, ...] = ()
    error: _Error | None = None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: tuple[_Model, ...]


class OpenAIClient:
    """Connections to one server.

    Args:
        url: Of the API, such as http://127.0.0.1:8000/v1.
        api_key: Sent with every request, if there is one.
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # An answer may take its time, also to its first token.
        timeout = httpx2.Timeout(None, connect=_CONNECT_TIMEOUT_S)
        self._url = url.rstrip("/")
        self._http = httpx2.Client(base_url=self._url, headers=headers, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()

    def first_model(self) -> str:
        """The name of a model that the server has.

        Raises:
            ServerError: it does not say.
        """
        with self._explained():
            response = self._http.get("/models")
            self._check(response)
            models = msgspec.json.decode(response.content, type=_Models).data
        if not models:
            raise ServerError(f"the server at {self._url} has no model; name one by --model-name")
        return models[0].id

    def chat(self, messages: Sequence[Message], parameters: Mapping[str, object]) -> Generator[Piece, None, None]:
        """The answer to a conversation, piece by piece. Closing the generator ends it at the server.

        Raises:
            ServerError: there is none.
        """
        return self._stream("/chat/completions", {"messages": list(messages), **parameters})

    def complete(self, prompt: str, parameters: Mapping[str, object]) -> Generator[Piece, None, None]:
        """What follows a text, piece by piece. Closing the generator ends it at the server.

        Raises:
            ServerError: there is none.
        """
        return self._stream("/completions", {"prompt": prompt, **parameters})

    def _stream(self, path: str, body: Mapping[str, object]) -> Generator[Piece, None, None]:
        request: Any = {"stream": True, **body}
        with self._explained(), self._http.sse(path, method="POST", json=request) as events:
            self._check(events.response)
            for event in events:
                if event.data == _DONE:
                    return
                chunk = msgspec.json.decode(event.data, type=_Chunk)
                if chunk.error is not None:
                    raise ServerError(chunk.error.message)
                for choice in chunk.choices:
                    yield from choice.pieces()

    def _check(self, response: httpx2.Response) -> None:
        if response.status_code == HTTPStatus.OK:
            return
        content = response.read()
        try:
            message = msgspec.json.decode(content, type=_ErrorBody).error.message
        except msgspec.DecodeError:
            message = content.decode(errors="replace")[:_MAX_SHOWN_CHARACTERS]
        raise ServerError(f"{message} (HTTP {response.status_code})")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ServerError(
                f"no answer from {self._url}: {error}; start a server by `pagestream serve`, or name yours by --url"
            ) from error
        except msgspec.DecodeError as error:
            raise ServerError(f"the server at {self._url} does not speak OpenAI's API: {error}") from error
