"""The sampling that a model's makers recommend: generation_config.json of a Hugging Face directory."""

import json
from collections.abc import Mapping
from typing import Any, Final

from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError

_FIELDS: Final = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}
"""By transformers' names, ours."""


def recommended_parameters(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Fields of `SamplingParams`; none where the model's files recommend nothing.

    Raises:
        CheckpointError: the file is no JSON object.
    """
    path = checkpoint.path / "generation_config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path} is no valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds a {type(config).__name__}; expected an object")
    return {ours: config[theirs] for theirs, ours in _FIELDS.items() if config.get(theirs) is not None}
