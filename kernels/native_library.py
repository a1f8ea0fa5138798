"""The native library as ctypes sees it: `kernels/native/library.h`, function by function."""

import ctypes
from ctypes import POINTER, c_float, c_int64, c_void_p
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

FLOAT_FORMATS: Final = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
BLOCK_FORMATS: Final = {"Q4_0": 3, "Q4_1": 4, "Q8_0": 5, "Q4_Z": 7}
CACHE_FORMATS: Final = FLOAT_FORMATS | {torch.int8: 6}


class MatrixStruct(ctypes.Structure):
    """`struct Matrix`."""

    _fields_ = (
        ("panels", c_void_p),
        ("bias", c_void_p),
        ("num_rows", c_int64),
        ("num_columns", c_int64),
        ("format", c_int64),
    )


class Int8MatrixStruct(ctypes.Structure):
    """`struct Int8Matrix`."""

    _fields_ = (
        ("panels", c_void_p),
        ("bias", c_void_p),
        ("num_rows", c_int64),
        ("num_columns", c_int64),
    )


class CacheShapeStruct(ctypes.Structure):
    """`struct CacheShape`."""

    _fields_ = (
        ("format", c_int64),
        ("num_kv_heads", c_int64),
        ("head_dim", c_int64),
        ("block_size", c_int64),
    )


class BatchStruct(ctypes.Structure):
    """`struct Batch`."""

    _fields_ = (
        ("query_start", c_void_p),
        ("context_lens", c_void_p),
        ("block_tables", c_void_p),
        ("num_seqs", c_int64),
        ("max_blocks", c_int64),
    )


class SamplingStruct(ctypes.Structure):
    """`struct Sampling`."""

    _fields_ = tuple((name, c_void_p) for name in ("temperature", "top_k", "top_p", "min_p", "uniforms"))


MAX_ARGUMENTS: Final = 10
REPEATABLE: Final = (
    *(
        "linear",
        "linear_int8",
        "linear_int8_blocks",
        "gather_rows",
        "gather_rows_int8",
        "rms_norm",
        "add_rms_norm",
    ),
    *(
        "add_numbers",
        "scale_numbers",
        "silu_and_mul",
        "gelu_and_mul",
        "norm_heads",
        "rotate_and_write",
        "paged_attention",
    ),
)
"""Functions by their numbers, `enum Function`."""


class CallStruct(ctypes.Structure):
    """`struct Call`."""

    _fields_ = (("function", c_int64), ("arguments", c_int64 * MAX_ARGUMENTS))


_POINTER, _COUNT = c_void_p, c_int64
_RETURN_COUNTS: Final = (
    "panel_bytes",
    "int8_panel_bytes",
    "is_int8_fast",
    "num_int8_ways",
    "num_read_pieces",
    "multiply_add_all",
)
_SIGNATURES: Final = {
    "set_num_threads": (_COUNT,),
    "panel_bytes": (_COUNT, _COUNT),
    "pack_matrix": (_COUNT, _POINTER, _COUNT, _COUNT, _POINTER),
    "linear": (POINTER(MatrixStruct), _POINTER, _COUNT, _POINTER, _COUNT),
    "gather_rows": (POINTER(MatrixStruct), _POINTER, _COUNT, _POINTER),
    "int8_panel_bytes": (_COUNT,),
    "pack_int8": (_POINTER, _POINTER, _COUNT, _COUNT, _POINTER),
    "linear_int8": (POINTER(Int8MatrixStruct), _POINTER, _COUNT, _POINTER, _COUNT),
    "gather_rows_int8": (POINTER(Int8MatrixStruct), _POINTER, _COUNT, _POINTER),
    "linear_int8_blocks": (POINTER(MatrixStruct), _POINTER, _COUNT, _POINTER, _COUNT),
    "is_int8_fast": (),
    "num_int8_ways": (),
    "choose_int8_way": (_COUNT,),
    "rms_norm": (_POINTER, _POINTER, c_float, _COUNT, _COUNT, _POINTER),
    "add_rms_norm": (_POINTER, _POINTER, _POINTER, c_float, _COUNT, _COUNT, _POINTER),
    "add_numbers": (_POINTER, _POINTER, _COUNT),
    "scale_numbers": (_POINTER, c_float, _COUNT),
    "silu_and_mul": (_POINTER, _COUNT, _COUNT, _POINTER),
    "gelu_and_mul": (_POINTER, _COUNT, _COUNT, _POINTER),
    "norm_heads": (_POINTER, _POINTER, _POINTER, c_float, _COUNT, _COUNT, _COUNT, _COUNT, _COUNT),
    "rotate_and_write": (
        *(_POINTER, _POINTER, _POINTER, _POINTER, _COUNT, _COUNT),
        *(POINTER(CacheShapeStruct), _POINTER, _POINTER, _POINTER),
    ),
    "paged_attention": (
        *(POINTER(BatchStruct), _POINTER, _COUNT),
        *(POINTER(CacheShapeStruct), _POINTER, _POINTER, c_float, _COUNT, c_float, _POINTER),
    ),
    "repeat_calls": (POINTER(CallStruct), _COUNT),
    "argmax": (_POINTER, _COUNT, _COUNT, _POINTER, _POINTER),
    "sample": (_POINTER, _COUNT, _COUNT, POINTER(SamplingStruct), _POINTER),
    "num_read_pieces": (_COUNT,),
    "read_all": (_POINTER, _COUNT, _POINTER),
    "multiply_add_all": (_COUNT, _POINTER),
}


def open_library(path: Path) -> ctypes.CDLL:
    """Load the library. It must fit this machine.

    Raises:
        OSError: it cannot be loaded.
    """
    library = ctypes.CDLL(str(path))
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = c_int64 if name in _RETURN_COUNTS else None
    return library


def address(tensor: Tensor) -> int:
    """Where a tensor's numbers start; they must lie one after another."""
    assert tensor.is_contiguous(), tensor.stride()
    return tensor.data_ptr()
