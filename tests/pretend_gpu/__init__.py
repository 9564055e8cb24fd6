"""A GPU that is none: PyTorch's `cuda` device over the CPU's kernels, for tests on machines without one.

A program that calls `start()` before its first `import torch` sees one GPU or several. Tensors are on them as they would be on
real ones: the Trainer, accelerate, autocast (in fp16 or bf16, by CUDA's rules) and GradScaler take their GPU paths, and a
batch or model left on the host is an error. What only hardware shows it does not: speed, memory, and the rounding of
CUDA's kernels. bitsandbytes computes with its CPU kernels.

`device.cpp` is the device as C++ code sees it, `compiled` makes a library of it, `start` adds what is asked in Python.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import types
from importlib import util

from shared.course.forkserver import BITSANDBYTES_LOGGER
from tests.pretend_gpu.compiled import build, torch_folder, why_not

__all__ = ["T4", "build", "start", "why_not"]

T4 = ("Pretended T4", (7, 5))  # name and compute capability
MEMORY = 15 * 2**30  # bytes, a T4's


def start(name: str = T4[0], capability: tuple[int, int] = T4[1], count: int = 1) -> types.ModuleType:
    """Make PyTorch believe in `count` GPUs of this name and compute capability; returns torch.

    Args:
        capability: (8, 0) and newer compute in bf16, older ones in fp16.
        count: how many GPUs are visible; tensors can only be put on the first.

    Raises CannotPretend where the device can't be built, RuntimeError where torch is already imported.
    """
    if "torch" in sys.modules:
        raise RuntimeError("torch is already imported: the pretended GPU has to be there before it")
    device = build()
    ctypes.CDLL(str(torch_folder() / "lib" / "libtorch_cpu.so"))  # by its path; the device goes by its name
    ctypes.CDLL(str(device))
    import torch

    if util.find_spec("bitsandbytes"):
        logging.getLogger(BITSANDBYTES_LOGGER).setLevel(logging.ERROR)
        import bitsandbytes  # noqa: F401  while no GPU is in sight: later it would ask for CUDA's driver
    major, minor = capability
    properties = types.SimpleNamespace(name=name, major=major, minor=minor, total_memory=MEMORY, multi_processor_count=40)
    _answer(torch, properties, count)
    _store(torch)
    return torch


def _answer(torch: types.ModuleType, properties: types.SimpleNamespace, count: int) -> None:
    """What `torch.cuda` asks its C++ half, which a PyTorch without CUDA lacks."""
    import psutil

    def memory(*_) -> dict[str, dict[str, dict[str, int]]]:
        resident = psutil.Process().memory_info().rss
        return {kind: {"all": {"current": resident, "peak": resident}} for kind in ("allocated_bytes", "reserved_bytes")}

    def nothing(*_) -> None:
        return None

    core, cuda = torch._C, torch.cuda
    core._cuda_getDeviceCount = lambda: count
    core._cuda_getDevice = lambda: 0
    core._cuda_memoryStats = memory
    for name in ("setDevice", "synchronize", "emptyCache", "ipc_collect", "resetPeakMemoryStats"):
        setattr(core, f"_cuda_{name}", nothing)
    cuda._exchange_device = cuda._maybe_exchange_device = lambda _: 0
    cuda._get_device_properties = lambda _: properties
    cuda.default_generators = (torch.default_generator,) * count  # the kernels are the CPU's, and draw from its generator
    cuda._initialized = True


def _store(torch: types.ModuleType) -> None:
    """Let storages be made on the device, which the constructor refuses: loading and deep copies do that."""
    make = torch.UntypedStorage.__new__

    def on_either(cls: type, *given, device: str | torch.device = "cpu", **more) -> torch.UntypedStorage:
        if torch.device(device).type == "cuda":
            return torch.empty(*given, dtype=torch.uint8, device="cuda").untyped_storage()
        return make(cls, *given, device=device, **more)

    torch.UntypedStorage.__new__ = on_either
