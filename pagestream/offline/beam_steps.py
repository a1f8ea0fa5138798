"""Runs beam searches on the engine, all prompts' beams together in each step."""

from collections.abc import Sequence

from gateway.tokenizers.tokenizer import Tokenizer
from pagestream.offline.beam_search import BeamSearch, BeamSearchOutput, BeamSearchParams
from pagestream.offline.generation import Generation
from pagestream.offline.outputs import Logprob
from pagestream.offline.progress_bar import BarMaker, ProgressBar
from pagestream.offline.prompts import Prompt
from pagestream.offline.request_loop import RequestLoop
from pagestream.offline.sampling_params import SamplingParams
from pagestream.offline.wire_requests import Request
from shared.errors import RequestError


def search_beams(
    loop: RequestLoop,
    prompts: Sequence[Prompt],
    params: BeamSearchParams,
    tokenizer: Tokenizer,
    *,
    max_model_len: int,
    use_tqdm: bool | BarMaker,
) -> list[BeamSearchOutput]:
    """Search to the end. The prefix cache keeps what a beam has in common with the step before.

    Raises:
        InvalidRequestError: a prompt cannot be served.
    """
    searches = [BeamSearch(prompt, params, end_tokens=tokenizer.eos_token_ids) for prompt in prompts]
    one_token = SamplingParams(
        temperature=0.0, max_tokens=1, logprobs=2 * params.beam_width, ignore_eos=True, detokenize=False
    )
    with ProgressBar(params.max_tokens, use_tqdm) as bar:
        for step in range(params.max_tokens):
            going = [search for search in searches if step == 0 or _may_go_on(search, max_model_len)]
            requests = [
                Request(Prompt(None, beam.tokens, search.cache_salt), one_token)
                for search in going
                for beam in search.beams
            ]
            outputs = iter(loop.run(requests))
            for search in going:
                search.extend([_likeliest(next(outputs)) for _ in search.beams])
            bar.advance(0, sum(len(search.beams) for search in going))
    found = [search.output() for search in searches]
    for sequence in (sequence for output in found for sequence in output.sequences):
        sequence.text = tokenizer.decode(sequence.tokens)
    return found


def _may_go_on(search: BeamSearch, max_model_len: int) -> bool:
    return bool(search.beams) and len(search.beams[0].tokens) < max_model_len


def _likeliest(generation: Generation) -> dict[int, Logprob]:
    """What may follow a beam.

    Raises:
        RequestError: the model could not say.
    """
    (completion,) = generation.output().outputs
    if completion.logprobs is None:
        raise RequestError(completion.error or "no log-probabilities were computed")
    return completion.logprobs[0]
