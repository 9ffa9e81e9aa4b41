"""Arrays whose memory TensorFlow can use as it is; the memory of large ones is used again.

A decoder writes the pixels of an image, the detector may convert them, and the network reads them. TensorFlow copies an
array that begins at any other address, and 12 megapixels take longer to copy than to read. This is its own module
because `source` and `detectors/running` both make such arrays.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

#: TensorFlow's kernels expect a tensor's address to be a multiple of this: the longest vector that they load at once.
ALIGNMENT = 64

#: The memory of arrays of these sizes, in bytes, is used again. The C library returns it to the system when the array
#: goes, and the system clears it before it gives it out again: that is a tenth of the time of decoding 12 megapixels.
#: The C library itself keeps smaller memory; larger memory would take too much while it waits.
_LEAST_REUSED, _MOST_REUSED = 2**24, 2**26

#: At most so many blocks of memory wait to be used again, each for arrays that take at least this share of it. With two
#: blocks, a fifth of a run's images got new memory, since a decoder is ahead by one image now and by four later.
_MOST_WAITING, _LEAST_SHARE = 3, 0.8

Number = TypeVar("Number", bound=np.generic)

#: No lock guards it, since a block may be given back at any moment, in any thread: adding and removing are atomic.
_waiting: deque[npt.NDArray[np.uint8]] = deque(maxlen=_MOST_WAITING)


class _Block:
    """Memory that waits to be used again once no array refers to it."""

    def __init__(self, memory: npt.NDArray[np.uint8]) -> None:
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__

    # The default keeps the function until Python has ended: the module's names may be gone before the last array is.
    def __del__(self, give_back: Callable[[npt.NDArray[np.uint8]], None] = _waiting.append) -> None:
        give_back(self._memory)


def aligned_empty(shape: Sequence[int], dtype: type[Number]) -> npt.NDArray[Number]:
    """A writable array without values, in C order, that begins at a multiple of `ALIGNMENT` bytes."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = _memory(size + ALIGNMENT)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _memory(size: int) -> npt.NDArray[np.uint8]:
    """At least `size` bytes without values."""
    if not _LEAST_REUSED <= size <= _MOST_REUSED:
        return np.empty(size, np.uint8)
    for _ in range(_MOST_WAITING):
        try:
            memory = _waiting.popleft()
        except IndexError:
            break
        if _LEAST_SHARE * memory.nbytes <= size <= memory.nbytes:
            return np.asarray(_Block(memory))
        _waiting.append(memory)
        del memory  # if it has to make room for another, it is freed at once
    return np.asarray(_Block(np.empty(size, np.uint8)))


def is_aligned(array: npt.NDArray[np.generic]) -> bool:
    """Whether an array is in C order and begins at a multiple of `ALIGNMENT` bytes."""
    return array.flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0
