"""Compiles each grammar before its request goes to a worker: a bad one fails its own request and nothing else."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from gateway.grammars.output_grammar import Constraint, GrammarText
from gateway.tokenizers.tokenizer import Tokenizer
from shared.errors import GrammarError, InvalidRequestError, ServiceUnavailableError
from shared.grammar import GrammarCompiler

MAX_CHARACTERS: Final = 256 * 1024
"""Of a grammar's source: it travels with every choice of a request."""
_AT_ONCE: Final = 2
_TIMEOUT_S: Final = 10.0
"""The compiler's own limits end it long before."""


class GrammarCheck:
    """Knows the model's tokenizer. Compilations run in threads, few at a time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._compiler = GrammarCompiler(tokenizer.to_json, tokenizer.eos_token_ids)
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def prepare(self) -> None:
        """Load the compiler's tokenizer in a thread, before the first request needs it."""
        self._compiler.prepare()

    async def check(self, source: str, constraints: Sequence[Constraint], begin: Callable[[], GrammarText]) -> None:
        """See that a worker can compile it.

        Args:
            source: Of the whole grammar.
            constraints: What it was made of: one of them is to blame.
            begin: A grammar with no rules yet.

        Raises:
            InvalidRequestError: it cannot; the error names the field to blame.
            ServiceUnavailableError: this machine is too busy to find out.
        """
        reason = await self._fault(source)
        if reason is None:
            return
        param = constraints[0].param
        for constraint in constraints if len(constraints) > 1 else ():
            text = begin()
            rule = await asyncio.to_thread(constraint.rule, text)
            if own_reason := await self._fault(text.source(rule)):
                param, reason = constraint.param, own_reason
                break
        raise InvalidRequestError(f"'{param}' cannot be enforced: {reason}", param=param)

    async def _fault(self, source: str) -> str | None:
        if len(source) > MAX_CHARACTERS:
            return f"as a grammar it has {len(source)} characters, more than {MAX_CHARACTERS}"
        async with self._turns:
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    await asyncio.to_thread(self._compiler.compile, source)
            except GrammarError as error:
                return str(error)
            except TimeoutError as error:
                # No grammar within the limits of work takes that long: it is the machine.
                raise ServiceUnavailableError(
                    f"the gateway is too busy to compile a grammar within {_TIMEOUT_S:.0f} s; send the request again"
                ) from error
        return None
