"""`python -m loadtest.transformers_server`: OpenAI's completions by static batches of transformers' `generate`.

A server to compare with: the same HTTP server, request parsing, tokenizer and event writing as our gateway, but behind
them a static batch (see `loadtest.static_batch`). Greedy, one prompt and one choice a request.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager

import msgspec
import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from transformers import PreTrainedModel

from gateway.chat.chat_format import ChatFormat
from gateway.chat.output_planner import OutputPlanner
from gateway.completions.output_draft import OutputDraft
from gateway.completions.submission import Submission
from gateway.completions.submission_builder import SubmissionBuilder
from gateway.grammars.grammar_check import GrammarCheck
from gateway.http.sse import DONE, EventWriter
from gateway.protocol.errors import install_error_handlers
from gateway.protocol.openai_requests import CompletionBody
from gateway.protocol.openai_responses import ModelCard, ModelList, Usage
from gateway.shapes.shape import Detail, Envelope, Prompt
from gateway.shapes.text_shape import TextShape
from gateway.shapes.token_names import TokenNames
from gateway.text.choice_text import ChoiceText, TextDelta
from gateway.tokenizers.tokenizer import Tokenizer
from gateway.tokenizers.tokenizer_loading import load_tokenizer
from loadtest.static_batch import StaticBatcher, StaticRequest
from loadtest.transformers_peer import load_in_transformers
from shared.checkpoint import Checkpoint, resolve
from shared.demo_model import DEMO
from shared.errors import InvalidRequestError, ModelNotFoundError, PagestreamError
from shared.model_config import ModelConfig

_SHUTDOWN_TIMEOUT_S = 1


class _Completions:
    """Takes bodies apart, and puts answers together."""

    def __init__(self, model_name: str, max_model_len: int, tokenizer: Tokenizer, batcher: StaticBatcher) -> None:
        self.model_name = model_name
        self.max_model_len = max_model_len
        self.started_s = int(time.time())
        self.batcher = batcher
        self._vocabulary = tokenizer.vocabulary
        planner = OutputPlanner(ChatFormat.choose(tokenizer), GrammarCheck(tokenizer))
        self._submissions = SubmissionBuilder(tokenizer, lambda: max_model_len, planner)
        self._num_requests = 0

    async def answer(self, body: CompletionBody) -> Response:
        """The response to a request, streamed if it says so."""
        if body.model != self.model_name:
            raise ModelNotFoundError(f"The model {body.model!r} does not exist; served here: {self.model_name!r}")
        self._num_requests += 1
        submission = await self._submissions.text(body, f"cmpl-{self._num_requests}")
        _check(submission)
        (prompt,) = submission.prompts
        text = ChoiceText(0, self._vocabulary, submission.rules)
        envelope = Envelope(submission.completion_id, int(time.time()), body.model)
        shape = TextShape(envelope, TokenNames(self._vocabulary), Detail(usage=body.detail.usage))
        request = self.batcher.submit(prompt.token_ids, prompt.sampling)
        if body.stream:
            events = _events(request, text, EventWriter(shape, 1))
            return StreamingResponse(events, media_type="text/event-stream")
        draft = OutputDraft()
        async for delta in _deltas(request, text):
            draft.add(delta)
        answer = shape.response([draft.output()], [Prompt(prompt.token_ids)], _usage(request, text))
        return Response(answer, media_type="application/json")


def _check(submission: Submission) -> None:
    sampling = submission.prompts[0].sampling
    if submission.num_choices != 1:
        raise InvalidRequestError("this server takes one prompt and n=1 in a request; send several", param="prompt")
    if not sampling.is_greedy:
        raise InvalidRequestError(
            f"'temperature' is {sampling.temperature}, but this server's batches are greedy; send 0",
            param="temperature",
        )
    if sampling.grammar:
        raise InvalidRequestError("this server's batches follow no grammar; leave the output's form out")


async def _deltas(request: StaticRequest, text: ChoiceText) -> AsyncIterator[TextDelta]:
    async with aclosing(request.tokens()) as tokens:
        async for new in tokens:
            yield text.push([new.token], new.finish)
            if text.is_finished:
                return


async def _events(request: StaticRequest, text: ChoiceText, writer: EventWriter) -> AsyncIterator[bytes]:
    async for delta in _deltas(request, text):
        # Half a character is no event yet.
        if data := writer.delta(delta):
            yield data
    if writer.wants_usage:
        yield writer.usage(_usage(request, text))
    yield DONE


def _usage(request: StaticRequest, text: ChoiceText) -> Usage:
    num_prompt_tokens = len(request.prompt)
    total = num_prompt_tokens + text.num_tokens
    return Usage(num_prompt_tokens, text.num_tokens, total)


def create_app(model_name: str, max_model_len: int, tokenizer: Tokenizer, batcher: StaticBatcher) -> FastAPI:
    """The application: batches run for as long as it does."""
    completions = _Completions(model_name, max_model_len, tokenizer, batcher)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(batcher.run())
        yield
        running.cancel()
        await asyncio.wait([running])

    app = FastAPI(title="transformers", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    install_error_handlers(app)

    @app.post("/v1/completions")
    async def create_completion(request: Request) -> Response:
        return await completions.answer(CompletionBody.parse(await request.body()))

    @app.get("/v1/models")
    async def list_models() -> Response:
        card = ModelCard(model_name, completions.started_s, max_model_len, owned_by="transformers")
        return Response(msgspec.json.encode(ModelList([card])), media_type="application/json")

    @app.get("/health")
    async def get_health() -> Response:
        return Response(status_code=200)

    return app


def main() -> int:
    """Load the model and serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.transformers_server", description=__doc__)
    parser.add_argument("model", nargs="?", default=DEMO, help='"demo", a *.gguf file, a directory, or a hub id')
    parser.add_argument("--served-model-name", help="name that clients ask for; default: the model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--max-batch-size", type=int, default=64, help="requests of one batch at most")
    parser.add_argument("--max-model-len", type=int, help="tokens of a prompt and its output; default: the model's")
    parser.add_argument("--gather-ms", type=float, default=20.0, help="how long the first request waits for others")
    parser.add_argument("--num-threads", type=int, help="threads that compute; default: all processors")
    arguments = parser.parse_args()
    try:
        checkpoint = resolve(arguments.model)
        config = ModelConfig.from_checkpoint(checkpoint)
        tokenizer = load_tokenizer(checkpoint, config)
        with ThreadPoolExecutor(max_workers=1) as thread:
            model = thread.submit(_load, checkpoint, arguments.num_threads).result()
            gather_s = arguments.gather_ms / 1e3
            batcher = StaticBatcher(model, thread, max_batch_size=arguments.max_batch_size, gather_s=gather_s)
            max_model_len = min(arguments.max_model_len or config.max_context, config.max_context)
            name = arguments.served_model_name or arguments.model
            _serve(create_app(name, max_model_len, tokenizer, batcher), arguments.host, arguments.port)
    except PagestreamError as error:
        print(f"transformers_server: error: {error}", file=sys.stderr)
        return 1
    return 0


def _load(checkpoint: Checkpoint, num_threads: int | None) -> PreTrainedModel:
    torch.set_num_threads(num_threads or len(os.sched_getaffinity(0)))
    return load_in_transformers(checkpoint)


def _serve(app: FastAPI, host: str, port: int) -> None:
    uvicorn.run(
        app,
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT_S,
    )


if __name__ == "__main__":
    raise SystemExit(main())
