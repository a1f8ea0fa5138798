"""best_of: more choices are computed than are answered; the likeliest are kept. Pure."""

from collections.abc import Sequence

from gateway.shapes.shape import Output


def keep_best(outputs: Sequence[Output], *, num_made: int, num_kept: int) -> list[Output]:
    """Of each prompt's outputs those with the highest log-probability per token, the best first.

    Args:
        outputs: As many of each prompt as were made, prompt by prompt; all of them scored if not all are kept.
        num_made: Of each prompt.
        num_kept: Of each prompt.
    """
    if num_kept == num_made:
        return list(outputs)
    kept: list[Output] = []
    for first in range(0, len(outputs), num_made):
        kept += sorted(outputs[first : first + num_made], key=_mean_logprob, reverse=True)[:num_kept]
    return kept


def _mean_logprob(output: Output) -> float:
    # What comes before is an echo of the prompt.
    own = output.scored[len(output.scored) - len(output.token_ids) :]
    logprobs = [token.logprobs.logprob for token in own if token.logprobs is not None]
    return sum(logprobs) / max(len(logprobs), 1)
