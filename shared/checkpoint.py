"""Where a model's files are: the demo model, a GGUF file, a Hugging Face directory, or a repository of the hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from shared.demo_model import DEMO, fetch
from shared.errors import CheckpointError

_WANTED: Final = ("*.safetensors", "*.json", "*.jinja", "*.model", "tokenizer*", "vocab*", "merges*")
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on this machine's disk.

    Attributes:
        name: What the model is called unless --served-model-name says otherwise.
        path: A GGUF file, or a directory with config.json.
    """

    name: str
    path: Path
    format: Literal["gguf", "huggingface"]


def resolve(model: str) -> Checkpoint:
    """Find a model, and fetch what is not here yet.

    Args:
        model: "demo", a path to a *.gguf file or a Hugging Face directory, or a hub id.

    Raises:
        CheckpointError: there is no such model, it cannot be fetched, or its weights are pickles.
    """
    if model == DEMO:
        path = fetch()
        return Checkpoint(path.name.split(".")[0], path, "gguf")
    path = Path(model).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise CheckpointError(
                f"model {model!r} is a file but no *.gguf; name its directory if it holds config.json"
            )
        return Checkpoint(path.stem, path, "gguf")
    if path.is_dir():
        return Checkpoint(path.resolve().name, _checked(path), "huggingface")
    if path.suffix == ".gguf" or path.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        raise CheckpointError(
            f"model {model!r} does not exist; give a *.gguf file, a directory with config.json, a hub id or {DEMO!r}"
        )
    return Checkpoint(model, _checked(_download(model)), "huggingface")


def _checked(directory: Path) -> Path:
    if not (directory / "config.json").is_file():
        raise CheckpointError(f"{directory} has no config.json; name a Hugging Face model directory or a *.gguf file")
    if not any(directory.glob("*.safetensors")):
        pickled = sorted(path.name for pattern in _PICKLES for path in directory.glob(pattern))
        found = f"only pickled weights ({', '.join(pickled)})" if pickled else "no weights"
        raise CheckpointError(
            f"{directory} has {found}; only safetensors are read, since loading a pickle runs code: "
            "convert it with save_pretrained(safe_serialization=True)"
        )
    return directory


def _download(repository: str) -> Path:
    # Only a model of the hub needs this: 0.3 s of import, requests and all.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=list(_WANTED), ignore_patterns=list(_PICKLES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"model {repository!r} is neither on this disk nor can it be fetched from the hub: {reason}; "
            f"check the name, the network and HF_TOKEN, or use a local path or {DEMO!r}"
        ) from error
