"""`LLM`: a model in this process, without servers. The names are vLLM's."""

import inspect
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from gateway.tokenizers.prompt_tokens import PromptTokenizer
from gateway.tokenizers.tokenizer_loading import build_tokenizer, find_tokenizer
from gpu_worker.runner_building import build_runner
from gpu_worker.settings import WorkerSettings
from pagestream.engine import LocalEngine
from pagestream.offline.beam_search import BeamSearchOutput, BeamSearchParams
from pagestream.offline.beam_steps import search_beams
from pagestream.offline.conversations import Message, as_conversations, read_conversation
from pagestream.offline.engine_arguments import check_others
from pagestream.offline.generation_config import recommended_parameters
from pagestream.offline.outputs import RequestOutput
from pagestream.offline.pooling import (
    EmbeddingRequestOutput,
    PoolingParams,
    PoolingRequestOutput,
    as_tensors,
    embed,
)
from pagestream.offline.progress_bar import BarMaker
from pagestream.offline.prompts import Prompt, PromptInput, as_list, read_prompt
from pagestream.offline.request_loop import RequestLoop
from pagestream.offline.sampling_params import SamplingParams
from pagestream.offline.wire_requests import Request, WireRequests
from shared.checkpoint import resolve
from shared.errors import InvalidArgumentError
from shared.model_config import ModelConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DEFAULTS: Final = WorkerSettings(pool="local", model="")


class LLM:
    """A model with its tokenizer and its KV cache.

    It runs the scheduler's core and the worker's runner, as a server does: the same request has the same tokens. Calls
    may come from several threads; they take turns.
    """

    def __init__(  # noqa: PLR0913 - as the worker's flags
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        dtype: str = _DEFAULTS.dtype,
        quantization: str | None = _DEFAULTS.quantization,
        kv_cache_dtype: str = _DEFAULTS.kv_cache_dtype,
        seed: int | None = _DEFAULTS.seed,
        gpu_memory_utilization: float = _DEFAULTS.gpu_memory_utilization,
        kv_cache_memory_bytes: int | None = _DEFAULTS.kv_cache_memory_bytes,
        max_model_len: int | None = _DEFAULTS.max_model_len,
        max_num_seqs: int = _DEFAULTS.max_num_seqs,
        max_num_batched_tokens: int = _DEFAULTS.max_num_batched_tokens,
        enable_prefix_caching: bool = _DEFAULTS.enable_prefix_caching,
        block_size: int = _DEFAULTS.block_size,
        chat_template: str | None = None,
        device: str = _DEFAULTS.device,
        enforce_eager: bool = _DEFAULTS.enforce_eager,
        num_threads: int | None = _DEFAULTS.num_threads,
        **others: Any,  # noqa: ANN401 - vLLM's
    ) -> None:
        """Load a model.

        Args:
            model: "demo", a *.gguf file, a Hugging Face directory, or a hub id.
            tokenizer: The same, or a directory with a tokenizer alone; None for the model's own.
            dtype: Of weights and activations; "auto" is exact on a CPU, and the checkpoint's own on a GPU.
            quantization: How to round the weights further; None does not.
            kv_cache_dtype: Of keys and values; "auto" is what `dtype` says.
            seed: Makes requests without a seed repeatable; None makes every run another.
            gpu_memory_utilization: Part of a GPU's memory to use.
            kv_cache_memory_bytes: Size of the KV cache; None finds it out.
            max_model_len: Tokens of a prompt and its output; None for the model's own limit.
            max_num_seqs: Sequences that run at the same time.
            max_num_batched_tokens: Tokens of one step at most.
            enable_prefix_caching: Compute a prefix that prompts share only once.
            block_size: Tokens of one block of the KV cache.
            chat_template: What `chat` renders with, instead of the model's own.
            device: "auto", "cpu" or "cuda".
            enforce_eager: Capture no steps (CUDA graphs).
            num_threads: Threads of one operation on the CPU; None for all that the process may use.
            others: Further arguments of vLLM's, at values that change nothing.

        Raises:
            ConfigurationError: an argument is wrong, or the model cannot be served with it.
            TypeError: an argument is not served, or unknown.
        """
        check_others(others, inspect.signature(LLM).parameters.keys() - {"others"})
        settings = WorkerSettings(
            pool=_DEFAULTS.pool,
            model=model,
            dtype=dtype,
            kv_cache_dtype=kv_cache_dtype,
            quantization=quantization,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            block_size=block_size,
            gpu_memory_utilization=gpu_memory_utilization,
            kv_cache_memory_bytes=kv_cache_memory_bytes,
            enable_prefix_caching=enable_prefix_caching,
            device=device,
            enforce_eager=enforce_eager,
            num_threads=num_threads,
        )
        self._chat_template = chat_template
        self._checkpoint = resolve(model)
        self._tokenizer_files = find_tokenizer(tokenizer) if tokenizer else self._checkpoint
        config = ModelConfig.from_checkpoint(self._checkpoint)
        self._prompts = PromptTokenizer(
            build_tokenizer(self._tokenizer_files, config.eos_token_ids), trusts_templates=True
        )
        runner = build_runner(settings)
        self._wire = WireRequests(self._prompts, max_model_len=runner.capabilities.max_model_len, seed=seed)
        self._loop = RequestLoop(LocalEngine(runner), self._wire, self._prompts.tokenizer.vocabulary)
        self._turn = threading.Lock()

    def generate(
        self,
        prompts: PromptInput | Sequence[PromptInput],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool | BarMaker = True,
        priority: int | Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Continue prompts.

        Args:
            prompts: One or several, each a text, token ids, or a dict with "prompt" or "prompt_token_ids".
            sampling_params: For all of them, or one for each; None for what the model's makers recommend.
            use_tqdm: Whether to show a progress bar, or what makes one.
            priority: For all of them, or one for each; lower runs first.

        Returns:
            One output for each prompt, in the same order.

        Raises:
            InvalidRequestError: a prompt or a parameter is wrong; nothing has been run.
        """
        return self._run(self._prompted(prompts, sampling_params, priority), is_whole_text=False, use_tqdm=use_tqdm)

    def enqueue(
        self,
        prompts: PromptInput | Sequence[PromptInput],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        priority: int | Sequence[int] | None = None,
    ) -> list[str]:
        """Have prompts continued by the next call that runs anything; arguments and errors are those of `generate`.

        Returns:
            The `request_id` of each; `wait_for_completion` gives their outputs.
        """
        requests = self._prompted(prompts, sampling_params, priority)
        with self._turn:
            return list(self._loop.enqueue(requests))

    def wait_for_completion(self, *, use_tqdm: bool | BarMaker = True) -> list[RequestOutput]:
        """Run what has been enqueued since the last such call to its end.

        Args:
            use_tqdm: Whether to show a progress bar, or what makes one.

        Returns:
            One output for each, in the order in which they were enqueued.
        """
        with self._turn:
            generations = self._loop.run_enqueued(use_tqdm=use_tqdm)
        return [generation.output() for generation in generations]

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool | BarMaker = True,  # noqa: FBT001, FBT002 - as vLLM's
        *,
        priority: int | Sequence[int] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer conversations.

        Args:
            messages: One conversation, or several.
            sampling_params: For all of them, or one for each; None for what the model's makers recommend.
            use_tqdm: Whether to show a progress bar, or what makes one.
            priority: For all of them, or one for each; lower runs first.
            chat_template: Instead of the model's own.
            add_generation_prompt: Open the assistant's answer.
            continue_final_message: Go on with the last message instead; `add_generation_prompt` must be False.
            tools: What the model may call, as OpenAI's `tools`.
            chat_template_kwargs: Further variables of the template.

        Returns:
            One output for each conversation, in the same order.

        Raises:
            InvalidRequestError: a message, the template or a parameter is wrong; nothing has been run.
        """
        requests = self._conversing(
            messages,
            sampling_params,
            priority,
            chat_template=chat_template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
        )
        return self._run(requests, is_whole_text=True, use_tqdm=use_tqdm)

    def enqueue_chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        priority: int | Sequence[int] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """`enqueue` for conversations; arguments and errors are those of `chat`."""
        requests = self._conversing(
            messages,
            sampling_params,
            priority,
            chat_template=chat_template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
        )
        with self._turn:
            return list(self._loop.enqueue(requests, is_whole_text=True))

    def beam_search(
        self,
        prompts: PromptInput | Sequence[PromptInput],
        params: BeamSearchParams,
        *,
        use_tqdm: bool | BarMaker = False,
    ) -> list[BeamSearchOutput]:
        """Find the likeliest continuations of prompts, several for each.

        Args:
            prompts: As `generate` takes them.
            params: How to search.
            use_tqdm: Whether to show a progress bar over the steps, or what makes one.

        Returns:
            The best sequences of each prompt, in the same order.

        Raises:
            InvalidRequestError: a prompt or a parameter is wrong; nothing has been run.
        """
        params.verify()
        read = [read_prompt(prompt, self._prompts) for prompt in as_list(prompts)]
        with self._turn:
            return search_beams(
                self._loop,
                read,
                params,
                self._prompts.tokenizer,
                max_model_len=self._wire.max_model_len,
                use_tqdm=use_tqdm,
            )

    def embed(
        self,
        prompts: PromptInput | Sequence[PromptInput],
        pooling_params: PoolingParams | None = None,
        *,
        use_tqdm: bool | BarMaker = True,
    ) -> list[EmbeddingRequestOutput]:
        """Turn prompts into vectors of numbers, as `/v1/embeddings` does.

        Args:
            prompts: As `generate` takes them.
            pooling_params: How; None for the last token's state, of length 1.
            use_tqdm: Whether to show a progress bar, or what makes one.

        Returns:
            One vector for each prompt, in the same order.

        Raises:
            InvalidRequestError: a prompt or a parameter is wrong; nothing has been run.
        """
        read = [read_prompt(prompt, self._prompts) for prompt in as_list(prompts)]
        with self._turn:
            return embed(self._loop, read, pooling_params or PoolingParams(), use_tqdm=use_tqdm)

    def encode(
        self,
        prompts: PromptInput | Sequence[PromptInput],
        pooling_params: PoolingParams | None = None,
        *,
        use_tqdm: bool | BarMaker = True,
    ) -> list[PoolingRequestOutput]:
        """Turn prompts into tensors; otherwise as `embed`."""
        return as_tensors(self.embed(prompts, pooling_params, use_tqdm=use_tqdm))

    def get_tokenizer(self) -> "PreTrainedTokenizerBase":
        """The model's tokenizer, as a class of transformers'."""
        # It brings torch, which must not be there before the worker has set it up.
        from gateway.tokenizers.transformers_tokenizer import transformers_tokenizer

        return transformers_tokenizer(self._tokenizer_files)

    def get_default_sampling_params(self) -> SamplingParams:
        """What the model's makers recommend."""
        return SamplingParams(**recommended_parameters(self._checkpoint))

    def reset_prefix_cache(self) -> bool:
        """Forget what earlier requests have computed, unless some are enqueued; returns whether it is forgotten."""
        with self._turn:
            return self._loop.reset_prefix_cache()

    def _prompted(
        self,
        prompts: PromptInput | Sequence[PromptInput],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        priority: int | Sequence[int] | None,
    ) -> list[Request]:
        read = [read_prompt(prompt, self._prompts) for prompt in as_list(prompts)]
        return self._requests(read, sampling_params, priority)

    def _conversing(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        priority: int | Sequence[int] | None,
        **rendering: Any,  # noqa: ANN401 - of `chat`
    ) -> list[Request]:
        tools, variables = rendering["tools"], rendering["chat_template_kwargs"]
        fields = rendering | {
            "chat_template": rendering["chat_template"] or self._chat_template,
            "tools": None if tools is None else list(map(dict, tools)),
            "chat_template_kwargs": dict(variables or {}),
        }
        read = [
            read_conversation(conversation, fields, self._prompts.tokenizer)
            for conversation in as_conversations(messages)
        ]
        return self._requests(read, sampling_params, priority)

    def _requests(
        self,
        prompts: Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        priority: int | Sequence[int] | None,
    ) -> list[Request]:
        chosen = self.get_default_sampling_params() if sampling_params is None else sampling_params
        params = [chosen] * len(prompts) if isinstance(chosen, SamplingParams) else list(chosen)
        rank = 0 if priority is None else priority
        priorities = [rank] * len(prompts) if isinstance(rank, int) else list(rank)
        for name, values in (("sampling_params", params), ("priority", priorities)):
            if len(values) != len(prompts):
                raise InvalidArgumentError(f"{name} has {len(values)} items for {len(prompts)} prompts", param=name)
        return list(map(Request, prompts, params, priorities))

    def _run(
        self, requests: Sequence[Request], *, is_whole_text: bool, use_tqdm: bool | BarMaker
    ) -> list[RequestOutput]:
        with self._turn:
            generations = self._loop.run(requests, is_whole_text=is_whole_text, use_tqdm=use_tqdm)
        return [generation.output() for generation in generations]
