"""What a scheduler process can be told."""

from dataclasses import dataclass

from shared.bus import RESUME_GRACE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSettings:
    """Settings of one scheduler process.

    Attributes:
        redis_url: Where the bus is.
        pool: Which pool to lead.
        worker_timeout_s: A worker that leaves its oldest plan unanswered for so long is declared dead, even if its
            heartbeat goes on. Longer than any step: a full prompt chunk on a slow CPU takes seconds.
        gateway_grace_s: Requests of a gateway without heartbeat run on for so long.
        log_level: As `logging` names them.
    """

    redis_url: str
    pool: str = "default"
    worker_timeout_s: float = 60.0
    gateway_grace_s: float = RESUME_GRACE_S
    log_level: str = "INFO"
