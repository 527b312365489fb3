"""Saving and resuming: how long training waits for a checkpoint, when it is committed, how long reading it back takes.

    python benchmarks/checkpoint.py                                            # one process
    torchrun --nproc-per-node 8 benchmarks/checkpoint.py --folder /data/trial  # sharded, as FSDP's state is

The default size is that of training all weights of the 7B network, 86 GB in all processes together: float32 weights and
AdamW's two moments. Meanwhile the device multiplies matrices, so that it shows whether writing slows it. What is read
back was just written, so a cold disk takes longer. `--device cpu --gigabytes 0.1` tries the script itself.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from measure import print_machine
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard, init_device_mesh

from cosmos_forge.events import Event, Saved
from cosmos_forge.training import checkpoint
from cosmos_forge.training.saving import Saver

KINDS = ("weights/{}", "optimizer/{}/exp_avg", "optimizer/{}/exp_avg_sq")


def main() -> None:
    options = parse()
    rank, device = start(options)
    tensors = state(options.gigabytes, device)
    committed: list[float] = []
    folder = Path(tempfile.mkdtemp(dir=options.folder) if rank == 0 else "")
    folder = Path(shared(str(folder)))

    def note(event: Event) -> None:
        if isinstance(event, Saved):
            committed.append(event.seconds)

    alone = work(device, seconds=options.seconds)
    waits, beside = [], []
    with Saver(folder, keep=1, emit=note) as saver:
        for step in (1, 2):  # the first one takes the memory for its copies, too
            begin = time.perf_counter()
            saver.save(step, tensors)
            waits.append(time.perf_counter() - begin)
            beside.append(work(device, seconds=options.seconds))
            saver.wait()
            wait_for_all()
    begin = time.perf_counter()
    checkpoint.restore(folder / checkpoint.folder_of(2), tensors)
    wait_for_all()
    resumed = time.perf_counter() - begin
    if rank == 0:
        print_machine(device)
        size = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e9
        print(f"{size:.2f} GB in {dist.get_world_size() if dist.is_initialized() else 1} processes")
        print("| | training waits | committed after | GB/s | work beside it / alone |")
        print("| --- | --- | --- | --- | --- |")
        for name, wait, whole, rate in zip(("first", "next"), waits, committed, beside, strict=True):
            print(f"| {name} save | {wait:.3f} s | {whole:.2f} s | {size / whole:.2f} | {rate / alone:.3f} |")
        print(f"| resume | {resumed:.2f} s | | {size / resumed:.2f} | |")
        shutil.rmtree(folder)
    if dist.is_initialized():
        dist.destroy_process_group()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=86.0, help="10^9 bytes, over all processes")
    parser.add_argument(
        "--folder", default=None, help="on the disk to try, seen by all processes; default: a temporary"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of matrix products beside each save")
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


def start(options: argparse.Namespace) -> tuple[int, torch.device]:
    """Joins torchrun's other processes, if there are any."""
    rank, local_rank = int(os.environ.get("RANK", 0)), os.environ.get("LOCAL_RANK", "0")
    device = torch.device(f"cuda:{local_rank}" if options.device == "cuda" else options.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return rank, device


def state(gigabytes: float, device: torch.device) -> dict[str, Tensor]:
    """Matrices of 4096x4096 float32 numbers, each with its two moments; smaller ones for less than a GB."""
    width = 4096 if gigabytes >= 1 else 512
    count = max(1, round(gigabytes * 1e9 / (len(KINDS) * 4 * width**2)))
    size = dist.get_world_size() if dist.is_initialized() else 1
    mesh = init_device_mesh(device.type, (size,)) if size > 1 else None
    tensors = {}
    for name in (kind.format(index) for index in range(count) for kind in KINDS):
        piece = torch.randn(width // size, width, device=device)
        tensors[name] = DTensor.from_local(piece, mesh, [Shard(0)]) if mesh else piece
    return tensors


def work(device: torch.device, seconds: float) -> float:
    """Matrix products a second, for so long."""
    width = 8192 if device.type == "cuda" else 512
    x, y = (torch.randn(width, width, device=device) for _ in range(2))
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        torch.mm(x, y)
        count += 1
        if device.type == "cuda":
            torch.cuda.synchronize()
    return count / (time.perf_counter() - begin)


def shared(text: str) -> str:
    """What the first process says, in all."""
    said = [text]
    if dist.is_initialized():
        dist.broadcast_object_list(said)
    return said[0]


def wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()


if __name__ == "__main__":
    main()
