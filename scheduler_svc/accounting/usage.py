"""What a request has cost so far, counted where its plans are answered. Pure.

Counted is what a worker has answered for while the request lived. What was under way at its end, or at the death of a
worker, is not.
"""

from scheduler_svc.scheduling.request import Request
from shared.sampling import Pooling
from shared.usage import Usage, UsageRecord


def record_of(request: Request) -> UsageRecord:
    """The record of a request that has ended."""
    first, sequences = request.sequences[0], request.sequences
    is_pooled = first.sampling.pooling is not Pooling.NONE  # the token that its last step samples is given to nobody
    usage = Usage(
        num_prompt_tokens=first.num_prompt_tokens,
        num_cached_tokens=first.num_cached_tokens,
        num_computed_tokens=sum(sequence.work.num_computed_tokens for sequence in sequences),
        num_recomputed_tokens=sum(sequence.work.num_recomputed_tokens for sequence in sequences),
        num_delivered_tokens=0 if is_pooled else sum(sequence.num_delivered_tokens for sequence in sequences),
    )
    return UsageRecord(request.submit.request_id, request.submit.api_key_id, usage)
