"""Arrays whose memory TensorFlow can use as it is.

A decoder writes the pixels of an image, the detector may convert them, and the network reads them. TensorFlow copies an
array that begins at any other address, and 12 megapixels take longer to copy than to read. This is its own module
because `source` and `detectors/running` both make such arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

#: TensorFlow's kernels expect a tensor's address to be a multiple of this: the longest vector that they load at once.
ALIGNMENT = 64

Number = TypeVar("Number", bound=np.generic)


def aligned_empty(shape: Sequence[int], dtype: type[Number]) -> npt.NDArray[Number]:
    """A writable array without values, in C order, that begins at a multiple of `ALIGNMENT` bytes."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def is_aligned(array: npt.NDArray[np.generic]) -> bool:
    """Whether an array is in C order and begins at a multiple of `ALIGNMENT` bytes."""
    return array.flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0
