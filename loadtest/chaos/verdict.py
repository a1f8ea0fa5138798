"""What is wrong with an answer, token by token. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import NamedTuple

from loadtest.chaos.answer import Answer, Choice
from loadtest.chaos.oracle import Truth


class Differences(NamedTuple):
    """Tokens that are not as they should be."""

    num_lost: int = 0
    num_doubled: int = 0
    num_wrong: int = 0

    def plus(self, other: "Differences") -> "Differences":
        """Both together."""
        return Differences(*(a + b for a, b in zip(self, other, strict=True)))


def compare(expected: Sequence[int], got: Sequence[int]) -> Differences:
    """How an output differs from what it should be.

    Tokens too many are doubled if they repeat those beside them, and wrong if they do not.
    """
    if expected == got:
        return Differences()
    found = Differences()
    matcher = SequenceMatcher(None, expected, got, autojunk=False)
    for kind, from_, to, start, stop in matcher.get_opcodes():
        num_missing, num_extra = to - from_, stop - start
        match kind:
            case "equal":
                pass
            case "delete":
                found = found.plus(Differences(num_lost=num_missing))
            case "insert" if list(got[start:stop]) in _neighbours(expected, from_, num_extra):
                found = found.plus(Differences(num_doubled=num_extra))
            case "insert":
                found = found.plus(Differences(num_wrong=num_extra))
            case "replace":
                found = found.plus(Differences(max(0, num_missing - num_extra), 0, num_extra))
    return found


def _neighbours(tokens: Sequence[int], place: int, count: int) -> list[list[int]]:
    return [list(tokens[max(0, place - count) : place]), list(tokens[place : place + count])]


@dataclass(slots=True)
class Verdict:
    """Sums up all answers of a run.

    Attributes:
        num_answers: Those that came to an end; broken ones are not among them.
        num_tokens: Of all answers, broken ones included.
        num_broken: Streams whose connection ended early.
        faulty: What is wrong with which answer, for a person.
    """

    num_answers: int = 0
    num_tokens: int = 0
    num_broken: int = 0
    differences: Differences = field(default_factory=Differences)
    faulty: list[str] = field(default_factory=list)

    def judge(self, answer: Answer, truths: Sequence[Truth], *, may_break: bool = False) -> None:
        """Take an answer in.

        Args:
            answer: At its end.
            truths: Of each of its choices.
            may_break: Whether a broken connection is as it should be.
        """
        self.num_tokens += answer.num_tokens
        if answer.is_broken:
            self.num_broken += 1
        else:
            self.num_answers += 1
        is_part = answer.is_broken and may_break
        faults = [] if is_part else _faults_of_end(answer)
        for place, (choice, truth) in enumerate(zip(answer.choices, truths, strict=True)):
            expected = truth.token_ids[: len(choice.token_ids)] if is_part else truth.token_ids
            differences = compare(expected, choice.token_ids)
            self.differences = self.differences.plus(differences)
            if any(differences):
                faults.append(f"choice {place}: {_describe(differences, expected, choice.token_ids)}")
            elif not is_part:
                faults += [f"choice {place}: {fault}" for fault in _faults_beside_tokens(choice, truth)]
        if faults:
            request = answer.request
            self.faulty.append(f"request {request.number} ({request.kind}, {answer.request_id}): {'; '.join(faults)}")


def _faults_of_end(answer: Answer) -> list[str]:
    faults = []
    if answer.error is not None:
        faults.append(f"ended with {answer.error}")
    elif answer.is_broken:
        faults.append("its connection broke off")
    elif not answer.is_complete:
        faults.append("did not end")
    elif answer.num_told_tokens != answer.num_tokens:
        faults.append(f"has {answer.num_tokens} tokens, and its usage says {answer.num_told_tokens}")
    return faults


def _faults_beside_tokens(choice: Choice, truth: Truth) -> list[str]:
    faults = []
    if choice.text != truth.text:
        faults.append("the tokens are right, their text is not")
    if choice.finish_reason != truth.finish_reason:
        faults.append(f"ended by {choice.finish_reason!r} instead of {truth.finish_reason!r}")
    if tuple(choice.logprobs) != truth.logprobs:
        faults.append("the tokens are right, their log-probabilities are not")
    return faults


def _describe(differences: Differences, expected: Sequence[int], got: Sequence[int]) -> str:
    places = (place for place, pair in enumerate(zip(expected, got, strict=False)) if pair[0] != pair[1])
    first = next(places, min(len(expected), len(got)))
    lost, doubled, wrong = differences
    return f"{lost} lost, {doubled} doubled, {wrong} wrong of {len(expected)} tokens, from place {first} on"
