import numpy as np
import torch

from gpu_worker.staging import ALIGNMENT, as_tensors, lay_out, views, write

ARRAYS = [
    np.arange(5, dtype=np.int64),
    np.arange(6, dtype=np.int32).reshape(2, 3)[:, :2],
    np.empty((0,), np.int64),
    np.array([1.5, 2.5, 3.5]),
]


def test_arrays_come_out_of_one_buffer_as_they_went_in() -> None:
    starts, num_bytes = lay_out(ARRAYS)
    buffer = np.full(num_bytes + 7, 255, np.uint8)
    write(ARRAYS, starts, buffer)
    for found, array in zip(views(torch.from_numpy(buffer), ARRAYS, starts), ARRAYS, strict=True):
        np.testing.assert_array_equal(found.numpy(), array)
        assert found.numpy().dtype == array.dtype
    assert (buffer[num_bytes:] == 255).all()


def test_arrays_are_aligned_and_do_not_overlap() -> None:
    starts, num_bytes = lay_out(ARRAYS)
    assert all(start % ALIGNMENT == 0 for start in starts)
    ends = [start + array.nbytes for start, array in zip(starts, ARRAYS, strict=True)]
    assert all(end <= start for end, start in zip(ends, [*starts[1:], num_bytes], strict=True))


def test_a_cpu_takes_arrays_as_they_are() -> None:
    (found,) = as_tensors([ARRAYS[0]])
    assert found.data_ptr() == ARRAYS[0].ctypes.data
