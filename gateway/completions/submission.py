"""One API call as it is sent: messages for the scheduler, and what the client is to read of the answer."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from gateway.chat.choice_message import MessageReading
from gateway.text.choice_text import ChoiceReader, ChoiceText, SilentChoice, TextRules
from gateway.tokenizers.vocabulary import Vocabulary
from shared.ids import GatewayId, Handle, RequestId
from shared.messages import Submit
from shared.packing import pack_u32
from shared.sampling import SamplingParams


class PreparedPrompt(NamedTuple):
    """One prompt with the parameters of its choices.

    Attributes:
        echo: Text that the client reads before each answer.
    """

    token_ids: Sequence[int]
    sampling: SamplingParams
    echo: str = ""


class Submission(NamedTuple):
    """One API call, ready to be sent.

    Attributes:
        completion_id: What the client sees; the requests on the bus are named after it.
        prompts: One request on the bus each, all with the same number of choices.
        rules: What of the tokens the client reads.
        num_kept: Choices of each prompt that are answered; the best, if more are computed.
        reading: How the text of each choice becomes a message; None if it is the message.
        is_silent: No output is wanted, only what is told of the prompt.
        priority: Lower runs first.
        cache_salt: Prefixes are shared only among the same salt.
        deadline_ms: Unix time at which the client stops waiting; 0 for never.
        api_key_id: Whose usage it is.
    """

    completion_id: str
    prompts: tuple[PreparedPrompt, ...]
    rules: TextRules
    num_kept: int = 1
    reading: MessageReading | None = None
    is_silent: bool = False
    priority: int = 0
    cache_salt: str = ""
    deadline_ms: int = 0
    api_key_id: str = ""

    @property
    def num_choices_per_prompt(self) -> int:
        """Choices that are computed: the API's n, or best_of."""
        return self.prompts[0].sampling.n

    @property
    def num_choices(self) -> int:
        """Over all prompts."""
        return len(self.prompts) * self.num_choices_per_prompt

    def readers(self, vocabulary: Vocabulary) -> list[ChoiceReader]:
        """Who follows the tokens of each choice."""
        if self.is_silent:
            return [SilentChoice(choice) for choice in range(self.num_choices)]
        if self.reading is not None:
            return [self.reading.reader(choice, self.rules) for choice in range(self.num_choices)]
        offsets = [len(prompt.echo) for prompt in self.prompts for _ in range(self.num_choices_per_prompt)]
        return [
            ChoiceText(choice, vocabulary, self.rules._replace(start_offset=offset))
            for choice, offset in enumerate(offsets)
        ]

    def messages(self, gateway_id: GatewayId, first_handle: Handle) -> list[Submit]:
        """The requests for the bus; their choices have consecutive handles from the first one on."""
        n = self.num_choices_per_prompt
        single = len(self.prompts) == 1
        return [
            Submit(
                request_id=RequestId(self.completion_id if single else f"{self.completion_id}-{i}"),
                gateway_id=gateway_id,
                handle=Handle(first_handle + i * n),
                prompt=pack_u32(prompt.token_ids),
                sampling=prompt.sampling,
                arrived_ms=time.time_ns() // 1_000_000,
                priority=self.priority,
                cache_salt=self.cache_salt,
                deadline_ms=self.deadline_ms,
                api_key_id=self.api_key_id,
            )
            for i, prompt in enumerate(self.prompts)
        ]
