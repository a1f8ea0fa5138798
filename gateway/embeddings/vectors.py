"""Vectors as clients want them: shortened, of length 1, as numbers or as base64. Pure."""

import base64
from typing import Literal

import numpy as np

from shared.errors import InvalidRequestError


def finished(data: bytes, dimensions: int | None, encoding: Literal["float", "base64"]) -> list[float] | str:
    """A vector in its final form. The zero vector stays what it is.

    Args:
        data: f32, as the worker tells it.
        dimensions: Leading numbers that are kept; None for all.
        encoding: How it is written.

    Raises:
        InvalidRequestError: there are fewer dimensions than that.
    """
    vector = np.frombuffer(data, "<f4").astype(np.float64)
    if dimensions is not None and dimensions > len(vector):
        raise InvalidRequestError(
            f"'dimensions' is {dimensions}, more than the {len(vector)} of this model", param="dimensions"
        )
    vector = vector[:dimensions]
    length = np.linalg.norm(vector)
    unit = (vector / length if length else vector).astype("<f4")
    return base64.b64encode(unit.tobytes()).decode() if encoding == "base64" else unit.tolist()
