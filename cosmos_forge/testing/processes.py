"""Trains TinyNet for a few steps, plainly or under a parallelism, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from cosmos_forge.testing.fakes import TinyNet, build, make_context
from cosmos_forge.training.pieces import local
from cosmos_forge.workers import free_port

MethodTable = Sequence[tuple[str | None, dict[str, Any]]]

STEPS, ACCUMULATED, SAMPLES = 3, 2, 4  # optimizer steps, batches each, samples a batch over all processes


def train(parallelism: Any, method: str | None, values: dict[str, Any]) -> dict[str, Tensor]:
    """Losses, first gradients and last weights, whole, by name. parallelism: started already; None is plain torch."""
    net = TinyNet()
    if method:
        adapter = build("method", method, values, make_context(Path()))
        adapter.adapt(net)
        names = list(adapter.trainable(net))
    else:
        names = [name for name, _ in net.named_parameters()]
    called = parallelism.apply(net, ["blocks.0", "blocks.1"]) if parallelism else net
    parameters = {name: dict(net.named_parameters())[name] for name in names}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2, eps=1e-5)
    data = torch.Generator().manual_seed(7)
    found: dict[str, Tensor] = {}
    for step in range(STEPS):
        total = torch.zeros(())
        for part in range(ACCUMULATED):
            if parallelism:
                parallelism.exchange(called, on=part == ACCUMULATED - 1)
            mine = _share(torch.randn(SAMPLES, 5, 6, generator=data))
            loss = (called(mine) - 0.1).square().mean() / ACCUMULATED
            loss.backward()
            total += _mean(loss.detach())
        found[f"loss/{step}"] = total
        if step == 0:
            found |= {f"grad/{name}": whole(value.grad) for name, value in parameters.items() if value.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
    found |= {f"weight/{name}": whole(value) for name, value in net.named_parameters()}
    everything = torch.randn(SAMPLES, 5, 6, generator=data)
    with torch.no_grad():
        called(everything)
        for value in parameters.values():
            local(value).mul_(0.5)
        if parallelism:
            parallelism.renew(called)
        found["output of halved weights"] = called(everything)
    return found


def run(count: int, use: str, options: dict[str, Any], methods: MethodTable, folder: Path) -> list[dict[str, Tensor]]:
    """What `train` finds in process 0 of `count`, a dict a method. Raises AssertionError with what a process said."""
    folder.mkdir(parents=True)
    request = folder / "request.json"
    request.write_text(json.dumps([use, options, list(methods)]))
    shared = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    logs = [folder / f"rank-{rank}.txt" for rank in range(count)]
    processes = []
    for rank, log in enumerate(logs):
        environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        command = [sys.executable, "-c", "from cosmos_forge.testing import processes; processes.main()", str(request)]
        with log.open("wb") as out:
            processes.append(subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for code, log in zip(codes, logs, strict=True):
        assert code == 0, f"{log.name} of {count} ended with {code}:\n{log.read_text()[-3000:]}"
    return [load_file(folder / f"{index}.safetensors") for index in range(len(methods))]


def main() -> None:
    """One process of `run`; its argument is the request."""
    request = Path(sys.argv[1])
    use, options, methods = json.loads(request.read_text())
    parallelism = build("parallelism", use, options, make_context(request.parent))
    world = parallelism.start()
    assert (world.rank, world.size) == (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])), f"start gave {world}"
    for index, (method, values) in enumerate(methods):
        found = train(parallelism, method, values)
        if world.rank == 0:
            save_file(
                {name: value.contiguous() for name, value in found.items()}, request.parent / f"{index}.safetensors"
            )
    parallelism.stop()
    # FSDP's gloo threads outlive the process group (DTensor's caches hold it); one that lets go of a tensor while
    # Python shuts down would abort the process.
    os._exit(0)


def whole(tensor: Tensor) -> Tensor:
    """All pieces of a tensor, put together, a copy."""
    tensor = tensor.detach()
    return tensor.full_tensor().clone() if isinstance(tensor, DTensor) else tensor.clone()


def _share(batch: Tensor) -> Tensor:
    """This process's samples of a batch."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    return batch.chunk(size)[rank]


def _mean(loss: Tensor) -> Tensor:
    """The mean of all processes' losses."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(loss)
        loss /= torch.distributed.get_world_size()
    return loss
