"""A GGUF model as a Hugging Face directory in fp32, for servers that read nothing else. Made once, and kept."""

import fcntl
import hashlib
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from gateway.tokenizers.transformers_tokenizer import transformers_tokenizer
from loadtest.transformers_peer import load_in_transformers
from shared.checkpoint import Checkpoint
from shared.demo_model import cache_directory
from shared.errors import ConfigurationError


def huggingface_directory(checkpoint: Checkpoint) -> Path:
    """config.json, safetensors and the tokenizer of a model. A model that is such a directory is left as it is.

    Raises:
        CheckpointError: the model's files cannot be read.
        ConfigurationError: the directory cannot be written.
    """
    if checkpoint.format == "huggingface":
        return checkpoint.path
    exports = cache_directory() / "exports"
    target = exports / f"{checkpoint.name}-{_digest(checkpoint.path)}"
    try:
        exports.mkdir(parents=True, exist_ok=True)
        with target.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.is_dir():
                _write(checkpoint, target)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {target}: {error}; set PAGESTREAM_CACHE to a directory you may write, with room for the "
            "model in fp32"
        ) from error
    return target


def _digest(path: Path) -> str:
    """Changes with the file, without reading all of it."""
    state = path.stat()
    return hashlib.sha256(f"{path.resolve()} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:12]


def _write(checkpoint: Checkpoint, target: Path) -> None:
    """Complete or not at all."""
    with TemporaryDirectory(dir=target.parent, prefix=".export-") as scratch:
        made = Path(scratch) / target.name
        load_in_transformers(checkpoint).save_pretrained(made)
        transformers_tokenizer(checkpoint).save_pretrained(made)
        shutil.move(made, target)
