"""Everything that can go wrong, as one tree.

PagestreamError
├── RequestError            a person's request is wrong: 4xx, with the field, the value and the remedy
│   ├── InvalidRequestError     400
│   │   └── InvalidArgumentError    the same from Python code: a ValueError, too
│   ├── AuthenticationError     401
│   ├── NotFoundError           404
│   │   └── ModelNotFoundError
│   ├── ForbiddenError          403
│   ├── RequestTimeoutError     408
│   ├── RequestTooLargeError    413
│   ├── KeyReusedError          422, an idempotency key that came with another request before
│   ├── QueueFullError          429, with the seconds after which a retry makes sense
│   ├── DeadlineUnreachableError  429, the same
│   ├── StorageFullError        429
│   └── ServiceUnavailableError 503
├── GrammarError            a grammar is wrong, is too large, or does not allow what follows it
├── ConfigurationError      a flag, a variable or a file is wrong: the process says which and stops
│   └── CheckpointError         the model's files cannot be read, or are of a kind that is not served
└── BusError                a fault between processes
    ├── BusUnavailableError     Redis does not answer
    ├── SealedError             this process was declared dead; it must start anew under a new name
    ├── LogLostError            Redis has lost the end of a log; who wrote it must write it again
    ├── LeaseLostError          another scheduler leads
    ├── ClaimLostError          another gateway works on this record, or it is gone
    ├── RecordExistsError       a record of this id has been made before
    ├── PlanError               a plan breaks the contract between scheduler and worker: a bug of ours
    └── MessageError            bytes that are no message of this version
"""

from shared.ids import StepId


class PagestreamError(Exception):
    """Any error this product raises on purpose."""


class RequestError(PagestreamError):
    """A request that cannot be served. Knows the HTTP status and the fields of OpenAI's error object."""

    status = 400
    error_type = "invalid_request_error"
    retry_after_s: int | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class InvalidRequestError(RequestError):
    """The request's content is wrong."""


class InvalidArgumentError(InvalidRequestError, ValueError):
    """An argument of the offline API is wrong."""


class AuthenticationError(RequestError):
    """No API key, or not one of ours."""

    status = 401
    error_type = "authentication_error"


class NotFoundError(RequestError):
    """The request names something that is not here: never was, was deleted, or has expired."""

    status = 404


class ModelNotFoundError(NotFoundError):
    """The request names a model that is not served here."""


class ForbiddenError(RequestError):
    """The API key may not do this."""

    status = 403
    error_type = "permission_error"


class RequestTimeoutError(RequestError):
    """The body does not come."""

    status = 408


class RequestTooLargeError(RequestError):
    """The body is larger than the gateway reads."""

    status = 413


class KeyReusedError(RequestError):
    """An idempotency key came with another request before."""

    status = 422


class QueueFullError(RequestError):
    """As many requests as may wait are waiting."""

    status = 429
    error_type = "rate_limit_error"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message, code="queue_full")
        self.retry_after_s = retry_after_s


class DeadlineUnreachableError(RequestError):
    """What is asked for cannot be had in the time that the client gives."""

    status = 429
    error_type = "rate_limit_error"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message, param="deadline_ms", code="deadline_unreachable")
        self.retry_after_s = retry_after_s


class StorageFullError(RequestError):
    """What is to be kept does not fit beside what is kept already."""

    status = 429
    error_type = "insufficient_quota"


class ServiceUnavailableError(RequestError):
    """Nobody can serve the request now."""

    status = 503
    error_type = "server_error"


class GrammarError(PagestreamError):
    """A grammar does not compile within the limits, or cannot be followed any further."""


class ConfigurationError(PagestreamError):
    """A setting is wrong. The message names it, its value and the remedy."""


class CheckpointError(ConfigurationError):
    """A model's files cannot be read, or hold something that is not served."""


class BusError(PagestreamError):
    """A fault between processes."""


class BusUnavailableError(BusError):
    """Redis does not answer."""


class SealedError(BusError):
    """This worker's stream has been sealed: it was declared dead, and its work has moved on."""


class LogLostError(BusError):
    """The log ends earlier than what this worker has written to it.

    Attributes:
        last: The id of the entry with which it ends now.
    """

    def __init__(self, message: str, *, last: StepId) -> None:
        super().__init__(message)
        self.last = last


class LeaseLostError(BusError):
    """This scheduler no longer leads the pool."""


class ClaimLostError(BusError):
    """What is written to a record comes from somebody who may no longer write to it."""


class RecordExistsError(BusError):
    """A record under an id that is taken."""


class PlanError(BusError):
    """A plan that contradicts what the worker holds."""


class MessageError(BusError):
    """Bytes that do not decode as a message of this version."""
