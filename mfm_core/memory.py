"""Keeps the memory of a training step between steps, on large pages where the system has them.

A step frees and takes again about 100 MB of tensors. glibc gives such memory back to the system
and gets it again page by page, each page zeroed: 1,400 page faults a step, none afterwards; and on
pages of 4 kB every pass over a tensor waits for the table of pages. Together they were 7 to 9 % of
a step (simulation/README.md). Elsewhere than on Linux with glibc nothing is done.
Nothing here crosses the hospital's boundary.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""glibc's numbers of settings (`man mallopt`)."""

HUGE_PAGES = 14
"""MADV_HUGEPAGE (`man madvise`)."""

KEPT_BYTES = 2**30
"""Freed memory at the heap's end that stays with the process; more goes back to the system."""

LARGEST_BYTES = 2**25
"""Blocks up to this size come from the heap, the most that glibc allows."""

MOST_BLOCKS = 2**16
"""Larger blocks that may lie outside the heap, as glibc has it."""

WIDE_BYTES = 192 * 2**20
"""What is laid on large pages: addresses, and of memory only what is used of them."""

PAGE_BYTES = 2**21


@lru_cache(maxsize=1)
def keep_memory() -> bool:
    """Let the process keep what it frees, from now on; return whether that could be done.

    It keeps about as much as a training step takes, which it would hold during training anyway.
    The second call does nothing.
    """
    try:
        library = ctypes.CDLL(None)
        mallopt, madvise = library.mallopt, library.madvise
        take, free = library.malloc, library.free
    except (AttributeError, OSError, TypeError):  # not glibc; on Windows there is no such library
        return False
    if not (mallopt(MMAP_THRESHOLD, LARGEST_BYTES) and mallopt(TRIM_THRESHOLD, KEPT_BYTES)):
        return False
    take.restype, take.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    free.argtypes = [ctypes.c_void_p]
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    mallopt(MMAP_MAX, 0)  # the block is of the heap, whatever its size
    start = take(WIDE_BYTES)
    mallopt(MMAP_MAX, MOST_BLOCKS)
    if start is not None:
        first, last = -(-start // PAGE_BYTES), (start + WIDE_BYTES) // PAGE_BYTES
        madvise(first * PAGE_BYTES, (last - first) * PAGE_BYTES, HUGE_PAGES)
        free(start)
    return True
