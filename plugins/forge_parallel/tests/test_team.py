"""Teams of gloo processes that make one video with the tiny network, against one process."""

import os
import subprocess
import sys

from cosmos_forge.workers import free_port

VIDEO = """
import os, torch
from pathlib import Path
from torch import distributed
from cosmos_forge.generation.residency import settle
from cosmos_forge.testing import make_context
from cosmos_forge.testing.fakes import build
from cosmos_forge.types import Condition, TextEmbedding

context = make_context(Path())
parallelism = build("parallelism", "ddp", {}, context)
rank = parallelism.start().rank
generator = torch.Generator().manual_seed(1)
latents = torch.randn(1, 16, 3, 6, 8, generator=generator)
noise = torch.randn(1, 16, 3, 6, 8, generator=generator)
texts = [TextEmbedding(torch.randn(1, 8, 64, generator=generator), torch.ones(1, 8, dtype=bool)) for _ in range(2)]
condition = Condition(latents, 1, *texts, torch.tensor([24.0]))

def make(team, guidance):
    model = build("model", "cosmos1-video2world", {"variant": "tiny"}, context)
    model.load()
    drawn = torch.Generator().manual_seed(2)
    for parameter in model.net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=drawn) * 0.05
    calls = []
    model.net.register_forward_hook(lambda *_: calls.append(1))
    if team and team.sequence:
        model.net.share_sequence(team.sequence)
        settle(model.net, model.blocks, "streamed", torch.device("cpu"))
    sampler = build("sampler", "euler", {"steps": 3}, context)
    denoiser = model.denoiser(condition, guidance, *([team.evaluate] if team else []))
    with torch.no_grad():
        return sampler.sample(denoiser, noise), len(calls)

def same_everywhere(x):
    everyone = [torch.empty_like(x) for _ in range(4)]
    distributed.all_gather(everyone, x)
    return all(torch.equal(x, each) for each in everyone)

alone, calls = make(None, 7.0)
assert calls == 6
unguided, _ = make(None, 0.0)
assert (alone - unguided).abs().max() > 1e-3, "the prompts must matter"

for size, branches, guidance, expected in ((2, 2, 7.0, alone), (4, 2, 7.0, alone), (4, 1, 0.0, unguided)):
    team = parallelism.team(size, branches)
    assert (team.sequence is None) == (size == branches)
    found, calls = make(team, guidance)
    assert calls == 3
    assert same_everywhere(found)
    far = (found - expected).abs().max().item()
    if rank == 0:
        print(size, branches, far)
    assert far <= (0 if size == branches else 1e-5)

told = team.tell(torch.full((3,), float(rank)))
assert (told == 0).all()
team = parallelism.team(3, 1)
assert (team is None) == (rank == 3)
distributed.barrier()
os._exit(0)
"""


def test_a_team_makes_what_one_process_makes():
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "4", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", VIDEO],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(4)
    ]
    said = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, "\n".join(said)[-4000:]
