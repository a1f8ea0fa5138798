from pathlib import Path

import huggingface_hub.constants
import pytest

from shared.checkpoint import Checkpoint, resolve
from shared.errors import CheckpointError


def test_a_gguf_file_is_named_after_its_stem(tmp_path: Path) -> None:
    path = tmp_path / "Some-Model.Q8_0.gguf"
    path.touch()
    assert resolve(str(path)) == Checkpoint("Some-Model.Q8_0", path, "gguf")


def test_a_directory_with_config_and_safetensors_is_a_checkpoint(tmp_path: Path) -> None:
    directory = tmp_path / "tiny"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").touch()
    assert resolve(str(directory)) == Checkpoint("tiny", directory, "huggingface")


def test_pickled_weights_are_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*only safetensors.*save_pretrained"):
        resolve(str(tmp_path))


def test_a_directory_without_config_or_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no weights"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("model", ["/nowhere/model", "./model", "model.gguf", "demos", "a/b/c"])
def test_what_is_no_hub_id_is_not_looked_up(model: str) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        resolve(model)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.touch()
    with pytest.raises(CheckpointError, match=r"no \*\.gguf"):
        resolve(str(path))


def test_without_the_hub_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"'nobody/nothing-at-all'.*use a local path"):
        resolve("nobody/nothing-at-all")
