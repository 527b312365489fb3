"""What the benchmarks share: timing, memory, what machine this is, and the table they print."""

from __future__ import annotations

import gc
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import torch
from torch import Tensor
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


def measure(what: str, function: Callable[[], Tensor], device: torch.device, repeats: int) -> Row:
    """Calls `function` once and then `repeats` times; says the result at once, for whoever waits. Processes that work
    together begin to repeat when all have compiled. What it returns must be finite: other numbers are faster to compute
    with."""
    release(device)
    first, _ = _seconds(function, device)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    seconds, results = zip(*(_seconds(function, device) for _ in range(repeats)), strict=True)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
    if not all(bool(each.isfinite().all()) for each in results):
        sys.exit(f"{what}: the results are not finite, so the times mean nothing")
    row = Row(what, statistics.median(seconds), max(seconds) / min(seconds), first, peak)
    print(f"{what}: {row.seconds:.3f} s", file=sys.stderr, flush=True)
    return row


def _seconds(function: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    """One call, by the device's own clock, and what it returned."""
    if device.type != "cuda":
        start = time.perf_counter()
        result = function()
        return time.perf_counter() - start, result
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    result = function()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after) / 1000, result


@dataclass
class Clock:
    """parts: seconds and peak GiB of each part of the work, in the order they began. ended: when each last did. steps:
    seconds and peak of each step of what makes steps."""

    device: torch.device
    parts: dict[str, tuple[float, float]] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    steps: list[tuple[float, float]] = field(default_factory=list)
    last: float = 0.0

    def now(self) -> float:
        """When all that was asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def lap(self) -> tuple[float, float]:
        """Seconds and peak GiB since the last one."""
        now, cuda = self.now(), self.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.device) / 2**30 if cuda else 0.0
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        seconds, self.last = now - self.last, now
        return seconds, peak

    def measured(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, each of its calls added to `what`. It must not call another that is measured."""

        def call(*inputs: Any, **named: Any) -> Any:
            self.lap()
            found = function(*inputs, **named)
            before, now = self.parts.get(what, (0.0, 0.0)), self.lap()
            self.parts[what] = before[0] + now[0], max(before[1], now[1])
            self.ended[what] = self.last
            return found

        return call

    def steps_of(self, sample: Callable[..., Any]) -> Callable[..., Any]:
        """A sampler's `sample`, each of its steps taken down."""

        def call(denoise: Any, noise: Any, generator: Any, on_step: Callable[[int], None]) -> Any:
            def step_done(step: int) -> None:
                self.steps.append(self.lap())
                on_step(step)

            self.lap()
            return sample(denoise, noise, generator, step_done)

        return call


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
