import platform
import subprocess
import sys

import pytest

from mfm_core import memory

CHURN = """
import ctypes, resource, sys
from mfm_core.memory import keep_memory

if sys.argv[1] == "keep":
    assert keep_memory() and keep_memory()
malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
free.argtypes = [ctypes.c_void_p]
def step():
    blocks = [malloc(8 << 20) for _ in range(4)]
    for block in blocks:
        ctypes.memset(block, 1, 8 << 20)
    for block in blocks:
        free(block)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's settings")
def test_what_was_freed_is_taken_again_without_a_page_fault() -> None:
    faults = {
        kind: int(subprocess.check_output([sys.executable, "-c", CHURN, kind]))
        for kind in ("keep", "give back")
    }
    pages = 32 * 2**20 // 4096
    assert faults["keep"] < pages / 100
    assert faults["give back"] > pages / 4


def test_without_glibc_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    memory.keep_memory.cache_clear()
    assert not memory.keep_memory()
    memory.keep_memory.cache_clear()
