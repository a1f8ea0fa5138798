"""What an argument may be, and the error that says so. Pure."""

from math import inf, isfinite
from numbers import Integral, Real
from typing import Any, NamedTuple

from shared.errors import InvalidArgumentError


class Range(NamedTuple):
    """Numbers that an argument may be.

    Attributes:
        kind: Whole numbers or any.
        excludes_least: The least one itself is not among them.
        may_be_none: Nor need it be a number at all.
    """

    kind: type[Integral | Real]
    least: float = -inf
    most: float = inf
    excludes_least: bool = False
    may_be_none: bool = False

    def holds(self, value: Any) -> bool:  # noqa: ANN401 - whatever somebody passes
        """Whether it may be this."""
        if value is None:
            return self.may_be_none
        if not is_number(value, self.kind):
            return False
        number = float(value)
        is_above = number > self.least if self.excludes_least else number >= self.least
        return is_above and number <= self.most

    def check(self, name: str, value: object) -> None:
        """Refuse what it may not be.

        Raises:
            InvalidArgumentError: with the name and the value.
        """
        if not self.holds(value):
            raise wrong(name, value, str(self))

    def __str__(self) -> str:
        noun = "a whole number" if self.kind is Integral else "a number"
        limits = ""
        if self.most < inf:
            limits = f" above {self.least:g} and up to" if self.excludes_least else f" from {self.least:g} to"
            limits += f" {self.most:g}"
        elif self.least > -inf:
            limits = f" above {self.least:g}" if self.excludes_least else f", {self.least:g} or more"
        return f"{noun}{limits}{', or None' if self.may_be_none else ''}"


def is_number(value: Any, kind: type[Integral | Real] = Real) -> bool:  # noqa: ANN401 - whatever somebody passes
    """Whether it is a finite number of this kind; a bool is none."""
    return not isinstance(value, bool) and isinstance(value, kind) and isfinite(value)


def is_token_ids(value: object) -> bool:
    """Whether it is a list of whole numbers."""
    return isinstance(value, list | tuple) and all(is_number(token, Integral) for token in value)


def are_texts(value: object) -> bool:
    """Whether it is a list of strings with something in them."""
    return isinstance(value, list | tuple) and all(isinstance(text, str) and text for text in value)


def wrong(name: str, value: object, expected: str) -> InvalidArgumentError:
    """The error for a value."""
    return InvalidArgumentError(f"{name} is {value!r}, but must be {expected}", param=name)
