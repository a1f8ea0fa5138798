"""Every message on the bus, and the only codec.

The wire format is MessagePack. Messages of the request path are maps (new fields are added with a default and old
readers skip them); messages of the step path are arrays of packed integers (new fields are added at the end). The first
byte of every message is `VERSION`; a reader refuses any other. `tests/shared/golden/` holds the bytes of each message.

Who writes what to whom:

    req          Submit                          gateway -> scheduler
    ctl          Cancel, Attach,                 gateway, worker -> scheduler
                 WorkerHello, WorkerBye
    plan:<wid>   StepPlan                        scheduler -> worker
    res:<wid>    StepResult                      worker (and the scheduler, for faults) -> scheduler, gateways
    tok:<gw>     TokenBatch                      the fast copy of a StepResult's part for that gateway
    w:<wid>      WorkerStatus                    worker -> scheduler
    status       PoolStatus                      scheduler -> gateways
"""

from typing import Annotated, Final, TypeVar

import msgspec

from shared.cached_blocks import NOTHING_CACHED, CachedBlocks
from shared.errors import MessageError
from shared.ids import GatewayId, Handle, RequestId, Slot, StepId, WorkerId
from shared.packing import U32_BYTES
from shared.sampling import SamplingParams

VERSION: Final = 1


class Told(msgspec.Struct, frozen=True, array_like=True):
    """What the client of one choice has been told already.

    Attributes:
        tokens: u32.
        is_finished: Whether the last of them ended it.
    """

    tokens: bytes = b""
    is_finished: bool = False


class Submit(msgspec.Struct, frozen=True, kw_only=True, tag="submit", tag_field="t"):
    """A gateway asks for a completion, or asks again since Redis may have lost it.

    Attributes:
        handle: Of choice 0; choice i has `handle + i`.
        prompt: u32 token ids, at least one.
        arrived_ms: Unix time at the gateway, for queue-time metrics and the order of the waiting queue.
        priority: Lower runs first.
        cache_salt: Prefixes are shared only between requests of the same salt.
        told: Of each choice, in a request that is submitted again. The output goes on after it.
        deadline_ms: Unix time at which nobody wants the answer any more; 0 for never.
        api_key_id: Whose usage it is; empty where no key is wanted.
    """

    request_id: RequestId
    gateway_id: GatewayId
    handle: Handle
    prompt: bytes
    sampling: SamplingParams
    arrived_ms: int
    priority: int = 0
    cache_salt: str = ""
    told: tuple[Told, ...] = ()
    deadline_ms: int = 0
    api_key_id: str = ""

    def __post_init__(self) -> None:
        """See that there is a prompt.

        Raises:
            ValueError: there is none.
        """
        if not self.prompt or len(self.prompt) % U32_BYTES:
            raise ValueError(f"a prompt of {len(self.prompt)} bytes is no array of tokens")


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag="cancel", tag_field="t"):
    """Nobody wants this request's (or this choice's) further tokens.

    Attributes:
        choice: One choice, or None for all of them.
        reason: For the log: "disconnect", "stop", "timeout", ...
        delivered: By choice of those meant, output tokens that the client was given; empty if that is not known.
    """

    request_id: RequestId
    reason: str
    choice: int | None = None
    delivered: tuple[int, ...] = ()


class Attach(msgspec.Struct, frozen=True, kw_only=True, tag="attach", tag_field="t"):
    """Another gateway follows a request's tokens, and wants them for as long as it lives itself.

    A request's address, the `gateway_id` and `handle` of its `Submit`, never changes: who follows it reads what is
    written to that address.

    Attributes:
        follower: Who wants the tokens now.
        gateway_id: Of the address.
        handle: Of choice 0 there.
        num_choices: All of which are told if the request is no more.
    """

    request_id: RequestId
    follower: GatewayId
    gateway_id: GatewayId
    handle: Handle
    num_choices: int


class WorkerCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker can hold and compute. All workers of a pool serve the same model.

    Attributes:
        max_model_len: Tokens of one sequence at most, prompt and output together.
        max_num_seqs: Rows of the batch state.
        max_num_batched_tokens: Tokens of one step at most.
        max_plans_in_flight: Plans the scheduler may send ahead of results.
        num_efficient_tokens: A step with so many tokens of prompts takes as long for each as a larger one, so that
            another prompt is better begun in the next; None where a larger one is always faster.
        kernels: Name of the ops it computes with; this and what follows is empty where nothing is computed.
        dtype: Of the matrices, or "stored" where they stay as the checkpoint has them.
        kv_cache_dtype: Of keys and values.
        quantization: What the matrices are rounded to, or "none".
    """

    model: str
    block_size: int
    num_blocks: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    enable_prefix_caching: bool = True
    max_plans_in_flight: int = 2
    num_efficient_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    device: str = "cpu"
    kernels: str = ""
    dtype: str = ""
    kv_cache_dtype: str = ""
    quantization: str = ""


class WorkerHello(msgspec.Struct, frozen=True, kw_only=True, tag="hello", tag_field="t"):
    """A worker is ready: its weights are loaded and its caches allocated.

    Attributes:
        formerly: The name that the same process had before; empty at its start.
        cached: What its blocks hold since then. Said only while it has been given no plan under its new name.
    """

    worker_id: WorkerId
    capabilities: WorkerCapabilities
    formerly: WorkerId = WorkerId("")
    cached: CachedBlocks = NOTHING_CACHED

    def __post_init__(self) -> None:
        """See that it has the blocks that it tells of.

        Raises:
            ValueError: it has not.
        """
        num_blocks = self.capabilities.num_blocks
        if any(block >= num_blocks for block, _ in self.cached):
            raise ValueError(f"a worker tells of blocks beyond its {num_blocks}")


class WorkerBye(msgspec.Struct, frozen=True, kw_only=True, tag="bye", tag_field="t"):
    """A worker stops; it executes no further plan.

    Attributes:
        error: What broke, if it does not stop on purpose.
    """

    worker_id: WorkerId
    error: str = ""


class Admitted(msgspec.Struct, frozen=True, array_like=True):
    """A sequence that starts (or starts again) on this worker, in full.

    Attributes:
        slot: The row it is given. It was free, or is released by the same plan.
        tokens: u32, prompt and output so far.
        num_prompt_tokens: How many of `tokens` are prompt; the rest is output already told to the client.
        num_computed_tokens: Tokens whose keys and values the blocks already hold: a prefix hit or a fork.
        num_cached_tokens: What the client is told of prefix hits, sent back beside the first output token.
        blocks: u32, the block table so far.
    """

    slot: Slot
    request_id: RequestId
    choice: int
    gateway_id: GatewayId
    handle: Handle
    tokens: bytes
    num_prompt_tokens: int
    num_computed_tokens: int
    num_cached_tokens: int
    blocks: bytes
    sampling: SamplingParams


class StepPlan(msgspec.Struct, frozen=True, array_like=True):
    """One forward pass, as a difference to what the worker holds. The stream id is its step id.

    The worker applies it in this order: released, admitted, appended blocks, block copies, compute.
    A row that reaches its last known token samples the next one; lengths and last tokens are the worker's.

    Attributes:
        released: u16 slots that are free from now on.
        admitted: Sequences new to this worker.
        appended_slots: u16; row that gets the block at the same place of `appended_blocks`.
        appended_blocks: u32 block ids.
        copies: u32 pairs (source block, destination block), done before anything is computed.
        slots: u16 rows that compute in this step.
        num_tokens: u32 tokens each of them computes.
        cached: What blocks hold once this has been computed, if others may come to ask for it.
    """

    released: bytes = b""
    admitted: tuple[Admitted, ...] = ()
    appended_slots: bytes = b""
    appended_blocks: bytes = b""
    copies: bytes = b""
    slots: bytes = b""
    num_tokens: bytes = b""
    cached: CachedBlocks = NOTHING_CACHED


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """The terminal event of a choice that could not be served: an HTTP status, the reason, and OpenAI's `code`."""

    handle: Handle
    status: int
    message: str
    code: str = ""


class Logprobs(msgspec.Struct, frozen=True, array_like=True):
    """How likely the model found some consecutive tokens, and what it found likeliest in their places.

    Natural logarithms of probabilities, of the model's own logits at temperature 1.

    Attributes:
        num_top: Likeliest tokens told for each token.
        chosen: f32 [num_tokens], of the tokens themselves.
        ranks: u32 [num_tokens], their places among all tokens; 1 is the likeliest.
        top_ids: u32 [num_tokens, num_top], the likeliest first.
        top: f32 [num_tokens, num_top], of those.
    """

    num_top: int
    chosen: bytes
    ranks: bytes
    top_ids: bytes
    top: bytes


class LogprobSpan(msgspec.Struct, frozen=True, array_like=True):
    """Log-probabilities of some tokens of one choice.

    Attributes:
        start: Place of the first of them in the choice's output, or in its prompt.
    """

    handle: Handle
    start: int
    logprobs: Logprobs


class Embedding(msgspec.Struct, frozen=True, array_like=True):
    """A prompt as a vector.

    Attributes:
        handle: Of the request, which has one choice.
        vector: f32 [hidden_size], not normalised.
    """

    handle: Handle
    vector: bytes


class TokenBatch(msgspec.Struct, frozen=True, array_like=True):
    """One gateway's part of one step: parallel arrays with one item per sequence that got tokens.

    Attributes:
        worker_id: The stream it is written to.
        step: The step's id.
        previous: The step before this one, of the same stream, that held something for this gateway.
        slots: u16; which row of the plan each item answers.
        handles: u32.
        indices: u32; place of the item's first token in its choice's output.
        counts: u8; tokens of the item.
        finishes: u8 `FinishCode`.
        tokens: u32; the items' tokens, one after another.
        cached: u32; `num_cached_tokens` of each item whose index is 0, in order.
        faults: Choices that end with an error; they are not among the items.
        logprobs: Of the tokens of those items whose requests ask for them.
        prompt_logprobs: Of prompts, as far as this step has computed them. A prompt that is computed again is told
            again, with the same numbers; all of it is told by the step of its first output token.
        embeddings: Of prompts that this step has completed, for requests that ask for them.
    """

    gateway_id: GatewayId
    worker_id: WorkerId
    step: StepId
    previous: StepId
    slots: bytes = b""
    handles: bytes = b""
    indices: bytes = b""
    counts: bytes = b""
    finishes: bytes = b""
    tokens: bytes = b""
    cached: bytes = b""
    faults: tuple[Fault, ...] = ()
    logprobs: tuple[LogprobSpan, ...] = ()
    prompt_logprobs: tuple[LogprobSpan, ...] = ()
    embeddings: tuple[Embedding, ...] = ()


class StepResult(msgspec.Struct, frozen=True, array_like=True):
    """The answer to one plan: the log of committed tokens. Every executed plan has exactly one, even an empty one.

    Attributes:
        batches: One per gateway that gets something.
        compute_us: Time from the plan's start to its tokens.
        num_tokens: Tokens computed.
    """

    batches: tuple[TokenBatch, ...] = ()
    compute_us: int = 0
    num_tokens: int = 0


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's heartbeat. It is alive if this exists, and well if `last_step` moves while plans wait.

    Attributes:
        host: Name of the machine or container that it runs on.
    """

    worker_id: WorkerId
    capabilities: WorkerCapabilities
    last_step: StepId
    num_queued_plans: int = 0
    host: str = ""


class PoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the leading scheduler tells everybody twice a second. It is absent while nobody leads.

    Attributes:
        max_model_len: The least of the live workers'; 0 without workers.
        stalled_s: Seconds without a result while plans were in flight; 0 when all is well.
        requests_per_s: Requests finished per second lately, for Retry-After.
        kv_cache_unused_ratio: Slots that no token has, of all slots of held blocks.
        workers: What each live worker is.
        num_waiting_tokens: Tokens that are to be computed before the last that waits has its first output token.
        tokens_per_s: How fast the workers compute at their best, all together; 0 while that is not known.
    """

    epoch: int
    model: str = ""
    max_model_len: int = 0
    num_workers: int = 0
    num_waiting: int = 0
    num_running: int = 0
    kv_cache_usage: float = 0.0
    stalled_s: float = 0.0
    requests_per_s: float = 0.0
    num_preemptions: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    kv_cache_unused_ratio: float = 0.0
    workers: dict[WorkerId, WorkerCapabilities] = {}
    num_waiting_tokens: int = 0
    tokens_per_s: float = 0.0


Inbound = Submit | Cancel | Attach | WorkerHello | WorkerBye
"""What a scheduler finds in its inbox: the streams `req` and `ctl`."""

Message = Inbound | StepPlan | StepResult | TokenBatch | WorkerStatus | PoolStatus

_M = TypeVar("_M")
_encoder = msgspec.msgpack.Encoder()
_decoders: Final[dict[object, msgspec.msgpack.Decoder[object]]] = {
    kind: msgspec.msgpack.Decoder(kind)
    for kind in (Inbound, StepPlan, StepResult, TokenBatch, WorkerStatus, PoolStatus)
}
_PREFIX: Final = bytes([VERSION])


def encode(message: Message) -> bytes:
    """The message's bytes, version first."""
    return _PREFIX + _encoder.encode(message)


def decode(data: bytes, kind: type[_M]) -> _M:
    """Read one message of a known kind.

    Raises:
        MessageError: another version, or not that kind of message.
    """
    if not data or data[0] != VERSION:
        found = f"version {data[0]}" if data else "nothing"
        raise MessageError(f"expected a message of version {VERSION}, found {found}")
    try:
        return _decoders[kind].decode(memoryview(data)[1:])  # type: ignore[return-value]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MessageError(f"not a {getattr(kind, '__name__', 'message')}: {error}") from error


def decode_inbound(data: bytes) -> Inbound:
    """Read whatever stands in the scheduler's inbox.

    Raises:
        MessageError: another version, or no such message.
    """
    message: Inbound = decode(data, Inbound)  # type: ignore[arg-type]
    if isinstance(message, Submit) and (len(message.prompt) % 4 or not message.prompt or message.sampling.n < 1):
        raise MessageError(f"a Submit of {len(message.prompt)} bytes of prompt and {message.sampling.n} choices")
    return message
