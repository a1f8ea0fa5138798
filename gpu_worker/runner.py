"""The only seam between what computes and what talks: `Runner.step(plan) -> StepOutput`.

A `ModelRunner` runs a model on a device, a `FakeRunner` computes a function of the request instead, and a `TimedRunner`
is a fake that takes as long as a roofline says. The service and the scheduler cannot tell them apart.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from shared.ids import Slot
from shared.messages import Logprobs, StepPlan, WorkerCapabilities
from shared.sampling import FinishCode


class RowOutput(NamedTuple):
    """What one row got in a step.

    Attributes:
        tokens: At least one, unless `finish` is ERROR.
        message: Why, if `finish` is ERROR.
        logprobs: Of the tokens, if the request asks for them.
        embedding: Of the prompt, f32 [hidden_size], with the first token, if the request asks for it.
    """

    slot: Slot
    tokens: tuple[int, ...]
    finish: FinishCode
    message: str = ""
    logprobs: Logprobs | None = None
    embedding: bytes | None = None


class PromptLogprobs(NamedTuple):
    """Log-probabilities of consecutive tokens of one row's prompt.

    Attributes:
        start: Place of the first of them in the prompt, at least 1: nothing is before the first token.
    """

    slot: Slot
    start: int
    logprobs: Logprobs


class StepOutput(NamedTuple):
    """What one step produced: rows that got tokens (a row in the middle of its prompt gets none).

    Attributes:
        num_tokens: Tokens computed.
        prompt_logprobs: Of requests that ask for them and have no output yet, told with choice 0. What was computed
            elsewhere before is not told: a plan admits such a sequence with no computed tokens.
    """

    rows: list[RowOutput]
    num_tokens: int
    prompt_logprobs: Sequence[PromptLogprobs] = ()


class Runner(Protocol):
    """Executes plans in order. One thread calls it."""

    @property
    def capabilities(self) -> WorkerCapabilities:
        """What this runner can hold and compute."""

    def step(self, plan: StepPlan) -> StepOutput:
        """Apply the plan's changes, compute its tokens, and choose the next token of each row that is up to date.

        A row that has finished computes nothing and gets nothing, even where a plan that was already under way still
        names it.

        Raises:
            PlanError: the plan contradicts what this runner holds. The worker must not go on.
        """

    def reset(self) -> None:
        """Forget every row, but not what blocks hold. The next plan is the first under a new name."""
