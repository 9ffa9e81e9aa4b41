"""Arrays begin at an aligned address, and the memory of large ones is used again, never while another refers to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from prelabel import aligned
from prelabel.aligned import ALIGNMENT, aligned_empty, is_aligned

LARGE = aligned._LEAST_REUSED


@pytest.fixture(autouse=True)
def nothing_waits() -> Iterator[None]:
    aligned._waiting.clear()
    yield
    aligned._waiting.clear()


@pytest.mark.parametrize("shape", [(3,), (7, 5, 3), (LARGE,), (LARGE // 4 + 1, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_an_array_is_aligned_writable_and_of_its_shape(shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    for _ in range(3):
        array = aligned_empty(shape, dtype)
        array[...] = 1
        assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
        assert is_aligned(array)
        assert array.flags.writeable
        assert array.min() == 1


def test_memory_of_a_large_array_is_used_again_once_nothing_refers_to_it() -> None:
    first = aligned_empty((LARGE,), np.uint8)
    address, view = first.ctypes.data, first[10:20]
    first[...] = 1
    del first
    other = aligned_empty((LARGE,), np.uint8)
    other[...] = 2
    assert other.ctypes.data != address
    assert view.tolist() == [1] * 10
    del view
    assert aligned_empty((LARGE,), np.uint8).ctypes.data == address


def test_memory_that_does_not_fit_waits_for_another_array() -> None:
    address = aligned_empty((2 * LARGE,), np.uint8).ctypes.data
    small = aligned_empty((LARGE,), np.uint8)  # would waste half of it
    large = aligned_empty((3 * LARGE,), np.uint8)
    assert len({address, small.ctypes.data, large.ctypes.data}) == 3
    assert aligned_empty((2 * LARGE,), np.uint8).ctypes.data == address


def test_memory_of_photos_of_two_sizes_is_used_again() -> None:
    sizes = (LARGE, 2 * LARGE)
    first = {size: aligned_empty((size,), np.uint8).ctypes.data for size in sizes}
    for _ in range(3):
        assert {size: aligned_empty((size,), np.uint8).ctypes.data for size in sizes} == first


def test_memory_of_a_slightly_larger_array_is_used_again() -> None:
    address = aligned_empty((LARGE + 1000,), np.uint8).ctypes.data
    assert aligned_empty((LARGE,), np.uint8).ctypes.data == address


@pytest.mark.parametrize("size", [LARGE // 2, aligned._MOST_REUSED])
def test_memory_of_small_and_of_huge_arrays_does_not_wait(size: int) -> None:
    aligned_empty((size,), np.uint8)
    assert not aligned._waiting


def test_few_blocks_wait() -> None:
    arrays = [aligned_empty((LARGE,), np.uint8) for _ in range(5)]
    arrays.clear()
    assert len(aligned._waiting) == aligned._MOST_WAITING
    assert ALIGNMENT <= aligned._waiting[0].nbytes - LARGE < 2 * ALIGNMENT


def test_a_tensor_keeps_the_memory_that_it_shares() -> None:
    from prelabel.detectors.running import runtime

    pixels = aligned_empty((LARGE,), np.uint8)
    pixels[...] = 1
    tensor = runtime.as_tensor(pixels)
    del pixels
    other = aligned_empty((LARGE,), np.uint8)
    other[...] = 2
    assert int(tensor.numpy().max()) == 1
    del tensor
    assert len(aligned._waiting) == 1


def test_threads_never_share_memory() -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(30):
            array = aligned_empty((LARGE,), np.uint8)
            array[::4096] = number
            if (array[::4096] != number).any():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
