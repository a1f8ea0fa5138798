"""Where the sizes of a model come from: its files, the table of well-known models, or the hub."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

from pagestream.planning.model_shape import ModelShape
from pagestream.planning.published_models import PUBLISHED_NAMES, published_config
from shared.checkpoint import resolve
from shared.demo_model import DEMO
from shared.errors import CheckpointError
from shared.gguf_file import GGUFFile

_HUB_ID_PARTS: Final = 2


def find_shape(model: str) -> ModelShape:
    """The sizes of a model.

    Args:
        model: A directory, a config.json, a *.gguf file, "demo", a well-known name, or a hub id, of which config.json
            alone is fetched.

    Raises:
        CheckpointError: there is no such model, or it is of a kind that cannot be planned.
    """
    if model == DEMO:
        return _of_gguf(resolve(model).path)
    path = Path(model).expanduser()
    if path.is_dir():
        return _of_config(path / "config.json")
    if path.is_file():
        return _of_gguf(path) if path.suffix == ".gguf" else _of_config(path)
    if config := published_config(model):
        return ModelShape.from_config(config)
    if path.suffix or path.is_absolute() or model.count("/") != _HUB_ID_PARTS - 1:
        raise CheckpointError(
            f"model {model!r} is no file, no directory and no well-known name; give one of these, a hub id, or one of "
            f"{', '.join(PUBLISHED_NAMES)}"
        )
    return _of_config(_download_config(model))


def _of_config(path: Path) -> ModelShape:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    shape = ModelShape.from_config(config)
    sizes = [file.stat().st_size for file in path.parent.glob("*.safetensors")]
    return replace(shape, stored_bytes=sum(sizes) or None)


def _of_gguf(path: Path) -> ModelShape:
    return ModelShape.from_gguf(GGUFFile.open(path))


def _download_config(repository: str) -> Path:
    # Only a model of the hub needs this: 0.3 s of import.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, "config.json"))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"config.json of {repository!r} cannot be fetched from the hub: {reason}; check the name, the network and "
            f"HF_TOKEN, give a path, or one of {', '.join(PUBLISHED_NAMES)}"
        ) from error
