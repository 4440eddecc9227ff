"""Whether freed memory stays with the process."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, re, sys, threading
from pathlib import Path
from rats_jax.runtime.allocator import keep_freed_memory, limit_arenas

libc, size = ctypes.CDLL(None), 100 * 2**20
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def take_and_free():
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)

if sys.argv[1] == "keep":
    limit_arenas(1)
    keep_freed_memory()
before = resident()
thread = threading.Thread(target=take_and_free)
thread.start()
thread.join()
print((resident() - before) / size)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
@pytest.mark.parametrize(("mode", "kept"), [("keep", True), ("as it is", False)])
def test_memory_that_a_thread_frees_stays(mode, kept):
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    share = float(done.stdout)
    assert (share > 0.9) if kept else (share < 0.1)
