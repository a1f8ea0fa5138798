"""Oracle: the `gguf` package writes the files and quantizes the numbers."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from shared.errors import CheckpointError
from shared.gguf_file import GGUFFile

KINDS = [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("a.u32", 7)
    writer.add_int64("an.i64", -(2**40))
    writer.add_float32("a.float", 0.5)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "größer\n")
    writer.add_array("some.strings", ["", "Ġa", "日本"])
    writer.add_array("some.ints", [1, -2, 3])
    writer.add_array("some.floats", [0.25, -1.5])
    rng = np.random.default_rng(0)
    for kind in KINDS:
        numbers = rng.standard_normal((6, 64), dtype=np.float32)
        writer.add_tensor(kind.name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)
    writer.add_tensor("vector", np.arange(5, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata_are_plain_values(written: Path) -> None:
    metadata = GGUFFile.open(written).metadata
    assert metadata["general.architecture"] == "llama"
    assert metadata["a.u32"] == 7
    assert metadata["an.i64"] == -(2**40)
    assert metadata["a.float"] == 0.5
    assert metadata["a.bool"] is True
    assert metadata["a.string"] == "größer\n"
    assert metadata["some.strings"] == ["", "Ġa", "日本"]
    assert metadata["some.ints"] == [1, -2, 3]
    assert metadata["some.floats"] == [0.25, -1.5]


def test_tensors_are_read_as_the_gguf_package_reads_them(written: Path) -> None:
    tensors = GGUFFile.open(written).tensors
    for expected in gguf.GGUFReader(written).tensors:
        found = tensors[expected.name]
        assert found.shape == tuple(expected.shape.tolist())[::-1]
        assert found.type == expected.tensor_type
        numbers = gguf.quants.dequantize(expected.data, expected.tensor_type)
        assert np.array_equal(found.dequantize(), numbers.reshape(found.shape))
    assert len(tensors) == len(KINDS) + 1


def test_a_file_cut_off_anywhere_is_refused(written: Path, tmp_path: Path) -> None:
    whole = written.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [1, 3, *range(4, len(whole) - 32, 61)]:
        cut.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut\.gguf"):
            GGUFFile.open(cut)


def test_a_corrupt_header_is_refused_or_read_but_never_breaks_the_reader(written: Path, tmp_path: Path) -> None:
    whole = bytearray(written.read_bytes())
    corrupt = tmp_path / "corrupt.gguf"
    num_refused = 0
    for place in range(0, 900, 3):
        changed = whole.copy()
        changed[place] ^= 0xFF
        corrupt.write_bytes(changed)
        try:
            GGUFFile.open(corrupt)
        except CheckpointError:
            num_refused += 1
    assert num_refused > 50


def test_other_files_and_versions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    for content, reason in [
        (b"", "other.gguf"),
        (b"PK\3\4" + bytes(40), "does not start with"),
        (b"GGUF\1" + bytes(40), "version is 1"),
        (b"GGUF\0\0\0\3" + bytes(40), "little-endian"),
    ]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=reason):
            GGUFFile.open(path)
    with pytest.raises(CheckpointError, match="missing"):
        GGUFFile.open(tmp_path / "missing.gguf")


def test_a_type_that_nobody_reads_is_named(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("blk.0.odd", np.zeros((2, 64), np.int8))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"blk\.0\.odd is of type I8"):
        GGUFFile.open(path).tensors["blk.0.odd"].dequantize()
