"""The demo model's first layers as a model of their own: the same shapes, formats and kernels in less time."""

from pathlib import Path

import gguf

from shared.checkpoint import Checkpoint
from shared.gguf_file import GGUFFile

_ADD = {str: "add_string", int: "add_uint32", float: "add_float32"}


def write_short(demo: Checkpoint, path: Path, *, num_layers: int) -> Checkpoint:
    """Write a GGUF file of the demo model's embedding, its first layers and its last norm, bytes as they are."""
    whole = GGUFFile.open(demo.path)
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in whole.metadata.items():
        if key.startswith("llama."):
            getattr(writer, _ADD[type(value)])(key, num_layers if key == "llama.block_count" else value)
    for name, tensor in whole.tensors.items():
        if not name.startswith("blk.") or int(name.split(".")[1]) < num_layers:
            writer.add_tensor(name, tensor.data.reshape(*tensor.shape[:-1], -1), raw_dtype=tensor.type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Checkpoint("short", path, "gguf")
