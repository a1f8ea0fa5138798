"""What becomes of bytes that are no message: a dead letter, and an error for whoever sent them, if that shows. Pure."""

from shared.dead_letters import Cause, DeadLetter, sender_of
from shared.ids import GatewayId
from shared.messages import Fault

_STATUS = 400
_CODE = "unreadable_message"


def unreadable(source: str, data: bytes, error: str, *, at_ms: int) -> DeadLetter:
    """The letter."""
    sender = sender_of(data)
    return DeadLetter(
        cause=Cause.UNREADABLE,
        source=source,
        message=data,
        reason=error,
        at_ms=at_ms,
        gateway_id=sender.gateway_id if sender else GatewayId(""),
    )


def refusals(data: bytes, error: str) -> list[tuple[GatewayId, Fault]]:
    """What its sender is told: a gateway of another version, for instance. Nothing if the sender does not show."""
    sender = sender_of(data)
    if sender is None:
        return []
    message = f"The scheduler cannot read this request: {error}. Gateway and scheduler are of different versions."
    return [(sender.gateway_id, Fault(handle, _STATUS, message, _CODE)) for handle in sender.handles]
