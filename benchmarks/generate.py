"""One video as `forge run` makes it, from a picture to an MP4: random weights, every part by itself.

    python benchmarks/generate.py
    python benchmarks/generate.py --film clip.mp4
    python benchmarks/generate.py --memory streamed
    torchrun --nproc-per-node 2 benchmarks/generate.py

Needs a GPU with 20 GiB for the default size and memory, 8 GiB with `--memory streamed`; torchrun one for each process.
The text encoder is a stand-in without weights: what an encoder takes depends on the prompt alone. The network's weights
are drawn on the device, so what their loading takes is not shown (see load_weights.py). Random weights of the tokenizer
make noise of everything, which takes longer to write than a video of something: with `--film`, what is decoded is
written with that film's frames in place of its own, resized and repeated to the length. `--tiny` tries the script
itself on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from measure import Clock, print_machine
from PIL import Image
from safetensors.torch import save_file

from cosmos_forge import video
from cosmos_forge.events import Event, Note
from cosmos_forge.generation import outputs, sampling
from cosmos_forge.plan import Plan
from cosmos_forge.planning import make_plan
from cosmos_forge.plugins import load_plugins
from cosmos_forge.recipe import read_recipe
from cosmos_forge.run import Run
from cosmos_forge.stages import generate
from cosmos_forge.testing.fakes import make_context
from cosmos_forge.types import Context
from cosmos_forge.worker import component
from forge_cosmos1.tokenizer_network import LATENT_CHANNELS, Autoencoder
from forge_cosmos1.video2world import Video2World

RECIPE = """
stages = ["generate"]
[model]
use = "cosmos1-video2world"
weights = "fresh"
[latent_tokenizer]
use = "cosmos-cv8x8x8"
[text_encoder]
use = "toy"
[sampler]
use = "euler"
[generate]
given_frames = 1
prompt = "a ball falls, hits the floor and bounces"
fps = 24.0
"""
PICTURE = Path(__file__).parents[1] / "recipes" / "ball.jpg"


def main() -> None:
    options, rank = parse(), int(os.environ.get("RANK", "0"))
    # All processes that torchrun started have one parent.
    folder = Path(tempfile.gettempdir()) / f"forge-generate-{os.getppid() if 'RANK' in os.environ else os.getpid()}"
    if rank == 0:
        write_files(folder, options.tiny)
    while not folder.exists():
        time.sleep(0.1)
    try:
        work(options, folder)
    finally:
        if rank == 0:
            shutil.rmtree(folder)


def work(options: argparse.Namespace, folder: Path) -> None:
    """The stage `generate`, in this process or as one of several, and its table."""
    plan = plan_of(options, folder)
    dtype = torch.bfloat16 if plan.root.precision == "bf16" else torch.float32
    context = make_context(folder, device=torch.device("cpu" if options.tiny else "cuda"), dtype=dtype)
    gc.freeze()  # as a worker does
    parallelism = component(plan, "parallelism", context)
    world = parallelism.start()
    clock = Clock(torch.device(world.device))
    heard = say if world.rank == 0 else lambda event: None
    context = replace(context, device=clock.device, world=world, emit=heard)
    try:
        film = read_film(options.film, plan.video_size()) if options.film else None
        with on_the_product(clock, film):
            start = clock.now()
            generate.run(plan, Run(plan.folder), context, parallelism)
            seconds = clock.now() - start
    finally:
        parallelism.stop()
    if world.rank == 0:
        report(plan, clock, world.size, seconds)


def say(event: Event) -> None:
    """What the product notes."""
    if isinstance(event, Note):
        print(event.text, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="7b-video2world", choices=["7b-video2world", "14b-video2world"])
    parser.add_argument("--memory", default="resident", choices=["auto", "resident", "streamed", "fp8"])
    parser.add_argument("--steps", type=int, default=35)
    parser.add_argument("--guidance", type=float, default=7.0)
    parser.add_argument("--frames", type=int, default=121, help="pixel frames, 8k+1")
    parser.add_argument("--height", type=int, default=704, help="pixels, a multiple of 16")
    parser.add_argument("--width", type=int, default=1280, help="pixels, a multiple of 16")
    parser.add_argument("--film", type=Path, help="a video that is written instead of noise")
    parser.add_argument("--tiny", action="store_true", help="the smallest network and video, on the CPU")
    return parser.parse_args()


def write_files(folder: Path, tiny: bool) -> None:
    """The recipe, and random weights of the tokenizer; where the folder is, all is in it."""
    unfinished = folder.with_suffix(".unfinished")
    unfinished.mkdir()
    (unfinished / "video.toml").write_text(RECIPE)
    write_tokenizer(unfinished / "tokenizer", tiny)
    unfinished.rename(folder)


def write_tokenizer(folder: Path, tiny: bool) -> None:
    """Random weights of the latent tokenizer, and statistics that change nothing."""
    folder.mkdir()
    torch.manual_seed(0)
    net = Autoencoder(16) if tiny else Autoencoder()
    save_file(net.state_dict(), folder / "tokenizer.safetensors")
    moments = torch.zeros(LATENT_CHANNELS * 16), torch.ones(LATENT_CHANNELS * 16)
    torch.save(moments, folder / "mean_std.pt")


def plan_of(options: argparse.Namespace, folder: Path) -> Plan:
    """The recipe's plan; all processes make the video together."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    variant, size, text = options.variant, (options.frames, options.height, options.width), (1024, 512)
    if options.tiny:
        variant, size, text = "tiny", (17, 64, 64), (64, 32)
    overrides = [
        f"parallelism.use={'ddp' if processes > 1 else 'single'}",
        f"model.variant={variant}",
        f"latent_tokenizer.weights={folder / 'tokenizer'}",
        *(f"text_encoder.{key}={value}" for key, value in zip(("width", "max_tokens"), text, strict=True)),
        *(f"generate.{key}={value}" for key, value in zip(("num_frames", "height", "width"), size, strict=True)),
        f"sampler.steps={options.steps}",
        f"generate.guidance={options.guidance}",
        f"generate.memory={options.memory}",
        f"generate.processes_per_video={processes}",
        f"generate.input={PICTURE}",
        *(["device=cpu", "precision=fp32"] if options.tiny else []),
    ]
    return make_plan(read_recipe(folder / "video.toml", overrides), load_plugins(), runs=folder)


def read_film(path: Path, size: tuple[int, int, int]) -> torch.Tensor:
    """As many frames as asked for, from the beginning again where it ends, resized: uint8 CTHW, in memory as THWC."""
    count, height, width = size
    frames = [Image.fromarray(each).resize((width, height)) for each in islice(video.read_frames(path), count)]
    return torch.from_numpy(np.stack(list(islice(cycle(map(np.asarray, frames)), count)))).permute(3, 0, 1, 2)


@contextmanager
def on_the_product(clock: Clock, film_CTHW: torch.Tensor | None) -> Iterator[None]:
    """While it lasts, the product's parts are measured where they are called, and weights are drawn, not read."""
    build, load_model, frames = sampling.component, sampling._load_model, sampling.frames

    def frames_of_film(tokenizer: Any, latents_BCTHW: torch.Tensor) -> torch.Tensor:
        made_CTHW = frames(tokenizer, latents_BCTHW)
        return made_CTHW if film_CTHW is None else film_CTHW

    def component_measured(plan: Plan, table: str, context: Context) -> Any:
        if table == "sampler":
            built = build(plan, table, context)
            built.sample = clock.steps_of(built.sample)
        else:
            built = clock.measured("tokenizer: loading", build)(plan, table, context)
            built.encode = clock.measured("tokenizer: encoding", built.encode)
            built.decode = clock.measured("tokenizer: decoding", built.decode)
        return built

    def draw(model: Video2World) -> None:
        torch.manual_seed(0)
        model.net.to(model.context.dtype).to_empty(device=model.context.device)
        for each in model.net.parameters():
            each.data.copy_(torch.randn(each.shape, dtype=each.dtype, device=clock.device) * 0.02)
        for buffer in model.net.buffers():  # tables of 0, 1, 2, ..
            buffer.copy_(torch.arange(buffer.numel()))

    replaced: list[tuple[Any, str, Any]] = [
        (sampling, "component", component_measured),
        (sampling, "_load_model", clock.measured("network: drawing", load_model)),
        (generate, "wake_compiler", clock.measured("compiler: loading", generate.wake_compiler)),
        (generate, "embed_texts", clock.measured("text", generate.embed_texts)),
        (sampling, "frames", frames_of_film),
        (video, "write_mp4", clock.measured("writing", video.write_mp4)),
        (outputs, "finish", clock.measured("contact sheet", outputs.finish)),
        (Video2World, "load", draw),
    ]
    with ExitStack() as stack:
        for owner, name, value in replaced:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


def report(plan: Plan, clock: Clock, processes: int, seconds: float) -> None:
    """The table, as Markdown. Loading is shown, and left out of the sum."""
    print_machine(clock.device)
    size = "x".join(map(str, plan.video_size()))
    print(
        f"{plan.options('model').variant}, {size}, {plan.root.precision}, guidance {plan.generate.guidance:g}; ", end=""
    )
    print(f"memory = {plan.generate.memory}, {processes} process{'es' * (processes > 1)}")
    first, *others = clock.steps
    times = [each for each, _ in others]
    rows = {"step 1, which compiles": first}
    if others:
        peak = max(peak for _, peak in others)
        rows[f"each of {len(others)} more steps, median"] = statistics.median(times), peak
        rows["all steps"] = first[0] + sum(times), max(first[1], peak)
    loading = {name for name in clock.parts if name.endswith(("loading", "drawing"))}
    total = seconds - sum(clock.parts[name][0] for name in loading)
    rest = total - first[0] - sum(times) - sum(clock.parts[name][0] for name in clock.parts.keys() - loading)
    last = ("tokenizer: decoding", "writing", "contact sheet")
    before = {name: clock.parts[name] for name in clock.parts if name not in last}
    after = {name: clock.parts[name] for name in last}
    everything = before | rows | after
    most = max(peak for _, peak in everything.values())
    print("| | time | GPU memory |\n| --- | --- | --- |")
    sums = {
        "rest": (rest, 0.0),
        "in all, but loading": (total, most),
        "from loaded weights to the MP4": (clock.ended["writing"] - clock.ended["network: drawing"], most),
    }
    for name, (time_, peak) in (everything | sums).items():
        print(f"| {name} | {time_:.3f} s | {f'{peak:.1f} GiB' if peak else ''} |")


if __name__ == "__main__":
    main()
