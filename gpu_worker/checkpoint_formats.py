"""How quantized checkpoints store a matrix: AWQ, GPTQ, compressed-tensors and FP8, each read into plain numbers.

Every reader takes the tensors of one layer by their last names and gives [out_features, in_features]. A CPU leaves
activations as they are, also where a checkpoint would have them rounded.

Sources: the formats as AutoAWQ, GPTQModel, compressed-tensors and transformers' finegrained_fp8 write them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from kernels.arguments import IntegerMatrix, ScaledMatrix
from kernels.integer_matrices import unpack
from shared.config_fields import ConfigFields
from shared.errors import CheckpointError

QuantizedMatrix = IntegerMatrix | ScaledMatrix
Read = Callable[[str], Tensor | None]
"""A layer's tensor by its last name, such as "qweight"; None if there is none."""

METHODS: Final = ("awq", "gptq", "fp8", "compressed-tensors")
"""`quant_method`s that are read."""

_AWQ_COLUMNS: Final = [0, 4, 1, 5, 2, 6, 3, 7]
"""Where in its word of eight nibbles each column stands."""
_BITS: Final = (4, 8)
_FP8: Final = (torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True, slots=True)
class CheckpointFormat:
    """What `quantization_config` says.

    Attributes:
        method: One of `METHODS`.
        bits: Of an integer weight.
        group_size: Columns that share a scale; None for a whole row.
        is_symmetric: Zero points are the middle.
        stores_zeros_less_one: GPTQ's first version does.
        rounds_activations: They are meant to be rounded to int8 (compressed-tensors' W8A8).
    """

    method: str
    bits: int = 4
    group_size: int | None = None
    is_symmetric: bool = False
    stores_zeros_less_one: bool = False
    rounds_activations: bool = False

    @classmethod
    def read(cls, config: Mapping[str, object]) -> "CheckpointFormat":
        """Read `quantization_config` of a config.json.

        Raises:
            CheckpointError: it names a format that is not read.
        """
        fields = ConfigFields(config, "config.json: quantization_config")
        method = fields.get("quant_method", str)
        if method not in METHODS:
            raise CheckpointError(
                f"config.json: quant_method is {method!r}, read are {', '.join(METHODS)}; use such a checkpoint, "
                "a GGUF file or the unquantized model"
            )
        bits, size = fields.get("bits", int, fields.get("w_bit", int, 4)), fields.get("group_size", int, -1)
        if method in ("awq", "gptq") and bits not in _BITS:
            raise CheckpointError(f"config.json: weights of {bits} bits are not read; use a checkpoint of 4 or 8")
        version = fields.get("version", str, "gemm").lower()
        if method == "awq" and (version != "gemm" or bits != _BITS[0]):
            raise CheckpointError(f"config.json: AWQ of {bits} bits packed for {version!r}; 4 bits for 'gemm' are read")
        return cls(
            method,
            bits,
            None if size <= 0 else size,
            is_symmetric=fields.get("sym", bool, False),
            stores_zeros_less_one=fields.get("checkpoint_format", str, "gptq") != "gptq_v2",
            rounds_activations=_rounds_activations(fields.get("config_groups", dict, {})),
        )

    def matrix(self, read: Read) -> QuantizedMatrix | None:
        """A layer's matrix; None if the layer is not quantized.

        Raises:
            CheckpointError: its tensors do not fit together.
        """
        if (words := read("qweight")) is not None:
            return self._awq(words, read) if self.method == "awq" else self._gptq(words, read)
        if (words := read("weight_packed")) is not None:
            return _compressed_words(words, read)
        weight = read("weight")
        if weight is None:
            raise CheckpointError("the layer has neither weight, qweight nor weight_packed")
        if weight.dtype in _FP8:
            return _scaled(weight, read)
        return self._compressed_bytes(weight, read) if weight.dtype == torch.int8 else None

    def _awq(self, words: Tensor, read: Read) -> IntegerMatrix:
        def columns(packed: Tensor) -> Tensor:
            numbers = unpack(packed, 4)
            return numbers.view(len(numbers), -1, 8)[..., _AWQ_COLUMNS].flatten(-2)

        quants = columns(words).T
        return _grouped(4, quants, _needed(read, "scales").T, columns(_needed(read, "qzeros")).T)

    def _gptq(self, words: Tensor, read: Read) -> IntegerMatrix:
        quants, zeros = unpack(words.T, self.bits), unpack(_needed(read, "qzeros"), self.bits).T
        if self._is_less_one(zeros):
            zeros = zeros + 1
        return _grouped(self.bits, quants, _needed(read, "scales").T, zeros, groups=read("g_idx"))

    def _compressed_bytes(self, weight: Tensor, read: Read) -> IntegerMatrix:
        scales = _needed(read, "weight_scale")
        if scales.numel() == 1:
            scales = scales.reshape(1, 1).expand(len(weight), 1)
        given = read("weight_zero_point")
        zeros = torch.zeros(scales.shape, dtype=torch.int32) if given is None else given.int().expand(scales.shape)
        found = _grouped(8, weight.int() + 128, scales, zeros + 128)
        return replace(found, rounds_activations=self.rounds_activations)

    def _is_less_one(self, zeros: Tensor) -> bool:
        """Some checkpoints are named as GPTQ's first version and are of the second: symmetric ones show it."""
        middle = 2 ** (self.bits - 1)
        if self.is_symmetric and (zeros == middle).all():
            return False
        if self.is_symmetric and (zeros == middle - 1).all():
            return True
        return self.stores_zeros_less_one


def _compressed_words(words: Tensor, read: Read) -> IntegerMatrix:
    rows, columns = _needed(read, "weight_shape").tolist()
    bits = 32 * words.shape[1] // columns
    if bits not in _BITS:
        raise CheckpointError(f"weight_packed has {bits} bits for a weight, read are 4 and 8")
    scales, zero_words = _needed(read, "weight_scale"), read("weight_zero_point")
    if zero_words is None:
        zeros = torch.full(scales.shape, 2 ** (bits - 1), dtype=torch.int32)
    else:
        zeros = unpack(zero_words.T, bits).T[:rows]
    return _grouped(bits, unpack(words, bits)[:, :columns], scales, zeros, groups=read("weight_g_idx"))


def _rounds_activations(groups: Mapping[str, object]) -> bool:
    """Of compressed-tensors' `config_groups`; a checkpoint mixes no schemes of int8."""
    schemes = [group.get("input_activations") for group in groups.values() if isinstance(group, dict)]
    return any(isinstance(scheme, dict) and scheme.get("type") == "int" for scheme in schemes)


def _scaled(weight: Tensor, read: Read) -> ScaledMatrix:
    """FP8 times the scale of its tensor, row, group or block; named "inverse", it is a factor all the same."""
    scales = read("weight_scale_inv")
    scales = (_needed(read, "weight_scale") if scales is None else scales).float()
    if scales.numel() == 1:
        return ScaledMatrix(weight, scales.reshape(1, 1), (weight.shape[0], weight.shape[1]))
    if scales.dim() == 1:
        scales = scales[:, None]
    rows, columns = (-(-size // count) for size, count in zip(weight.shape, scales.shape, strict=True))
    columns = weight.shape[1] if scales.shape[1] == 1 else _block(columns)
    return ScaledMatrix(weight, scales.contiguous(), (_block(rows), columns))


def _block(size: int) -> int:
    """A block's length, of which the last one may be cut off: blocks are powers of two, or all there is."""
    return size if size == 1 else 1 << (size - 1).bit_length()


def _grouped(
    bits: int, quants: Tensor, scales: Tensor, zeros: Tensor, *, groups: Tensor | None = None
) -> IntegerMatrix:
    columns = quants.shape[1]
    if groups is None:
        groups = torch.arange(columns) // -(-columns // scales.shape[1])
    return IntegerMatrix(
        bits, quants.to(torch.uint8).contiguous(), scales.contiguous(), zeros.int().contiguous(), groups.long()
    )


def _needed(read: Read, name: str) -> Tensor:
    found = read(name)
    if found is None:
        raise CheckpointError(f"a quantized layer lacks {name}")
    return found
