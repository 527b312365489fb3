"""Measures how weights are loaded: time, and the most memory that host and device need.

    python benchmarks/load_weights.py                                  # the 7B network, 14.5 GB, to the GPU
    python benchmarks/load_weights.py --blocks 2 --device cpu          # a small part of it, anywhere

Writes files of random weights in bfloat16 to a temporary folder, as the reference's model.pt and as safetensors, and
loads each as the model does. A process of its own writes them, another loads each, so that nothing else is counted. The
files were written just before, so that the operating system still has what fits into memory; a cold disk takes longer.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from forge_cosmos1 import weights
from forge_cosmos1.variants import VARIANTS, DiTConfig
from forge_cosmos1.video2world import Network
from forge_cosmos1.weights_files import Entry, open_weights
from forge_cosmos1.weights_write import write_safetensors

GIB = 2**30
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=VARIANTS, default="7b-video2world")
    parser.add_argument("--blocks", type=int, help="fewer blocks than the variant has")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--folder", type=Path, help="where the files go; default: the system's temporary folder")
    asked = parser.parse_args()
    config = VARIANTS[asked.variant]
    if asked.blocks:
        config = replace(config, num_blocks=asked.blocks)
    on = torch.cuda.get_device_name() if asked.device.startswith("cuda") else platform.processor() or "CPU"
    print(f"{on}, torch {torch.__version__}, {asked.variant}, {config.num_blocks} blocks, bfloat16")
    print(f"{'file':18} {'GiB':>6} {'seconds':>8} {'host GiB':>9} {'of them before':>15} {'device GiB':>11}")
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        for name in ("model.pt", "model.safetensors"):
            path = Path(folder) / name
            alone(write, path, config)
            size = path.stat().st_size / GIB
            seconds, host, before, device = alone(load, path, config, asked.device)
            print(f"{name:18} {size:6.2f} {seconds:8.1f} {host:9.2f} {before:15.2f} {device:11.2f}", flush=True)
            path.unlink()


def alone(function: Callable[..., T], *arguments: object) -> T:
    """The function's result, from a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def write(path: Path, config: DiTConfig) -> None:
    """Random weights; the same block of random numbers over and over, for speed."""
    noise = (0.02 * torch.randn(2**25)).bfloat16()

    def random(shape: torch.Size) -> Tensor:
        return noise.repeat(1 + shape.numel() // len(noise))[: shape.numel()].view(shape)

    with torch.device("meta"):
        shapes = {name: value.shape for name, value in Network(config).state_dict().items()}
    if path.suffix == ".pt":
        torch.save({name: random(shape).clone() for name, shape in shapes.items()}, path)
    else:
        entries = {
            name: Entry(tuple(shape), torch.bfloat16, lambda shape=shape: random(shape))  # type: ignore[misc]
            for name, shape in shapes.items()
        }
        write_safetensors(path, entries, lambda: None)


def load(path: Path, config: DiTConfig, device: str) -> tuple[float, float, float, float]:
    """Seconds, most host memory, what of it was there before, most device memory; in GiB."""
    target = torch.device(device)
    with torch.device("meta"):
        net = Network(config)
    torch.zeros(1, device=target)  # the device is set up before the clock starts
    before, start = peak(), time.perf_counter()
    weights.load(net, path, target, torch.bfloat16)
    if target.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    host, device_peak = peak(), torch.cuda.max_memory_allocated() / GIB if target.type == "cuda" else 0.0
    name = "net.blocks.block1.blocks.2.block.layer2.weight"
    assert torch.equal(net.get_parameter(name).cpu(), open_weights(path).entries[name].read())
    return seconds, host, before, device_peak


def peak() -> float:
    """Most memory this process ever held, in GiB, with what it had mapped of files."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


if __name__ == "__main__":
    main()
