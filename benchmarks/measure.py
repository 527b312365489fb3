"""What the benchmarks share: timing, memory, what machine this is, and the table they print."""

from __future__ import annotations

import gc
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Row:
    """seconds: median of the repeats. spread: the slowest of them over the fastest. first: seconds of the call before
    them, which compiles and chooses kernels. peak: GiB of the GPU, weights and inputs included."""

    what: str
    seconds: float
    spread: float
    first: float
    peak: float


def measure(what: str, function: Callable[[], Any], device: torch.device, repeats: int) -> Row:
    """Calls `function` once and then `repeats` times; says the result at once, for whoever waits."""
    release(device)
    first = _seconds(function, device)
    seconds = [_seconds(function, device) for _ in range(repeats)]
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
    row = Row(what, statistics.median(seconds), max(seconds) / min(seconds), first, peak)
    print(f"{what}: {row.seconds:.3f} s", file=sys.stderr, flush=True)
    return row


def _seconds(function: Callable[[], Any], device: torch.device) -> float:
    """One call, by the device's own clock."""
    if device.type != "cuda":
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    function()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after) / 1000


def release(device: torch.device) -> None:
    """Gives back what nobody holds any more, and starts counting memory anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def attention_of(function: Callable[[], Any]) -> str:
    """Which of torch's attention implementations a call of `function` runs, as torch names them."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        function()
    prefix = "aten::_scaled_dot_product_"
    names = {event.key.removeprefix(prefix) for event in recorded.key_averages() if event.key.startswith(prefix)}
    return ", ".join(sorted(names)) or "none of torch's"


def print_table(rows: list[Row], peer: Row | None) -> None:
    """As Markdown. peer: what the last column compares with."""
    print("| | time | slowest / fastest | first call | GPU memory | time / peer's |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        ratio = f"{row.seconds / peer.seconds:.3f}" if peer else ""
        times = f"{row.seconds:.3f} s | {row.spread:.3f} | {row.first:.1f} s"
        memory = "" if math.isnan(row.peak) else f"{row.peak:.1f} GiB"
        print(f"| {row.what} | {times} | {memory} | {ratio} |")


def print_machine(device: torch.device, *packages: str) -> None:
    """The hardware, and versions of torch and of `packages`."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        cudnn = ".".join(str(torch.backends.cudnn.version() // step % 100) for step in (10000, 100, 1))
        hardware = (
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}, cuDNN {cudnn}"
        )
    else:
        hardware = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    versions = [f"{name} {metadata.version(name)}" for name in packages]
    print(", ".join([hardware, f"torch {torch.__version__}", *versions]))
