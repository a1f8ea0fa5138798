"""What a gateway is told at its start."""

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from shared.bus import RESUME_GRACE_S


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """One gateway process. Its printed form shows no secret.

    Attributes:
        pool: The pool of workers that answers.
        model: What the model is loaded from: "demo", a GGUF file, a Hugging Face directory or a hub id.
        served_model_name: Names clients may ask for; `model` itself if there are none.
        api_keys: One of them is wanted on every /v1 request; without any, everybody is served.
        api_key_file: The same, by their hashes and with limits; see docs/security.md.
        ssl_certfile: Certificate for HTTPS, PEM; HTTP without.
        ssl_keyfile: Its key; in the same file if None.
        max_model_len: Tokens of a prompt and its output together; the model's own limit if None.
        max_num_queued_reqs: Requests in the pool above which a new one is refused with 429.
        max_num_calls: Calls under way at this gateway, above which another one is refused with 429.
        max_num_call_bytes: The same of their bodies' bytes.
        max_logprobs: Likeliest tokens told beside each token, at most.
        trust_request_chat_template: Whether a request may bring its own chat template.
        enable_auto_tool_choice: Whether the model may call tools without being made to.
        tool_call_parser: How it writes calls: a name, or "none"; None leaves it to its chat template.
        reasoning_parser: How it writes its reasoning; the same.
        max_body_bytes: Bytes of a request's body above which it is refused with 413.
        pooling: What vector of a prompt an embedding is: the last token's, or the mean of all.
        max_file_bytes: Bytes of an uploaded file above which it is refused with 413.
        max_response_store_bytes: Bytes of kept responses, above which the oldest are dropped.
        max_stream_store_bytes: Bytes of what is kept of streams, above which the oldest can no longer be resumed.
        resume_grace_s: How long a request with an idempotency key runs on after its client has gone.
        max_file_store_bytes: Bytes of kept files, and of kept batches, above which a new one is refused.
        shutdown_timeout_s: How long running streams may go on after SIGTERM.
    """

    pool: str
    model: str
    served_model_name: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    api_key_file: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    max_model_len: int | None = None
    max_num_queued_reqs: int = 512
    max_num_calls: int = 1024
    max_num_call_bytes: int = 256 * 1024 * 1024
    max_logprobs: int = 20
    trust_request_chat_template: bool = False
    enable_auto_tool_choice: bool = True
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    max_body_bytes: int = 4 * 1024 * 1024
    pooling: Literal["last", "mean"] = "last"
    max_file_bytes: int = 100 * 1024 * 1024
    max_response_store_bytes: int = 256 * 1024 * 1024
    max_stream_store_bytes: int = 256 * 1024 * 1024
    resume_grace_s: float = RESUME_GRACE_S
    max_file_store_bytes: int = 1024 * 1024 * 1024
    redis_url: str = field(default="redis://127.0.0.1:6379/0", repr=False)
    shutdown_timeout_s: float = 5.0

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names clients may ask for; the first one is the model's name in metrics."""
        return self.served_model_name or (self.model,)

    def __str__(self) -> str:
        keys = f"{len(self.api_keys)} (hidden)" if self.api_keys else "none"
        return f"{self!r}, api_keys: {keys}, redis_url: {_without_password(self.redis_url)}"


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")))
