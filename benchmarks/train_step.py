"""Training steps put together as a run has them, and diffusers' with peft on the same work: random weights and latents.

    python benchmarks/train_step.py --peer diffusers
    python benchmarks/train_step.py --method full --processes 2 --settings train.optimizer_state=8bit --peer diffusers
    python benchmarks/train_step.py --processes 2 --settings parallelism.context=2,train.batch_size=1

Each of --settings is a comma-separated list of a recipe's keys, and gets a row. With --processes it gets another one,
in that many processes with a GPU each that have the weights in pieces (fsdp) and a sample each, or with `context` share
one; a table of its own holds it against the process alone, which does the same on its whole sample. Keys of
`parallelism`, and the batch size, are for these processes. What `train.deterministic` does lasts, so it wants a call of
its own. Needs a GPU with 140 GiB for the default size; with recompute = block alone 40. FLOPs are those that a sample's
step has to compute, nothing of it twice.
`--device cpu --variant tiny --frames 17 --height 64 --width 64` tries the script itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from forward import FPS, TEXT_TOKENS, fill, network_of_diffusers
from measure import Row, measure, print_machine, print_table, release
from torch import Tensor

from cosmos_forge.gpus import known
from cosmos_forge.planning import make_plan
from cosmos_forge.plugins import load_plugins
from cosmos_forge.recipe import read_recipe
from cosmos_forge.run import Run
from cosmos_forge.testing.fakes import make_context
from cosmos_forge.training.assemble import assemble
from cosmos_forge.training.data import generator
from cosmos_forge.training.deterministic import be_deterministic
from cosmos_forge.types import Batch, TextEmbedding
from cosmos_forge.worker import component
from cosmos_forge.workers import free_port
from forge_cosmos1.plugin import Video2WorldOptions
from forge_cosmos1.variants import VARIANTS, DiTConfig
from forge_cosmos1.video2world import Video2World

RECIPE = """
stages = ["train"]
[latent_tokenizer]
use = "cosmos-cv8x8x8"
[text_encoder]
use = "toy"
[dataset]
use = "toy-physics"
[model]
use = "cosmos1-video2world"
weights = "fresh"
[method]
use = "lora"
[parallelism]
use = "single"
[train]
steps = 1000
lr = 1e-6                       # random weights are soon thrown out of bounds by larger steps
"""


def main() -> None:
    options = parse()
    device, config = torch.device(options.device), VARIANTS[options.variant]
    Video2World.load = lambda self: fill(self.net, self.context.device)  # drawn on the device, which takes no time
    if options.report:
        one_of_many(options)
        return
    print_machine(device, *(["diffusers", "peft"] if options.peer == "diffusers" else []))
    flops = step_flops(options)
    print(f"{options.variant}, {options.method}: {flops / 1e15:.3g} PFLOP a step and sample")
    rows, peers = [], []
    for setting in options.settings:
        rows.append(measure_ours(setting, options))
        if options.processes > 1:
            rows.append(together(setting, options))
            print_table(rows[-2:], rows[-2])
    if options.peer == "diffusers":
        peers.append(measure("diffusers, checkpointing", theirs(config, options, device), device, options.repeats))
    print_table(rows + peers, peers[0] if peers else None)
    gpu = known(torch.cuda.get_device_name()) if device.type == "cuda" else None
    for row in rows + peers:
        rate = flops / row.seconds / 1e12
        print(f"{row.what}: {rate:.0f} TFLOP/s" + (f", {rate / gpu.tflops:.1%} of the GPU's peak" if gpu else ""))


def measure_ours(setting: str, options: argparse.Namespace) -> Row:
    """One row; leaves the device as it was."""
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        row = measure(setting, ours(options, setting, Path(folder)), device, options.repeats)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    torch.compiler.reset()
    release(device)
    return row


def together(setting: str, options: argparse.Namespace) -> Row:
    """The same step in several processes, started here; the first one's row."""
    with tempfile.TemporaryDirectory() as folder:
        report, shared = Path(folder) / "row.json", {"WORLD_SIZE": str(options.processes), "MASTER_ADDR": "127.0.0.1"}
        command = [sys.executable, __file__, *sys.argv[1:], "--report", str(report), "--settings", setting]
        environment = {**os.environ, **shared, "MASTER_PORT": str(free_port())}
        places = [{**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(options.processes)]
        processes = [subprocess.Popen(command, env=place) for place in places]
        while None in (codes := [process.poll() for process in processes]) and not any(codes):
            time.sleep(0.1)
        for process in processes if any(codes) else ():
            process.kill()
        if any(codes):
            sys.exit("a process failed; what it said stands above")
        return Row(**json.loads(report.read_text()))


def one_of_many(options: argparse.Namespace) -> None:
    """What `together` starts."""
    row = measure_ours(options.settings[0], options)
    if os.environ["RANK"] == "0":
        what = f"{row.what}, {options.processes} processes"
        Path(options.report).write_text(json.dumps(asdict(replace(row, what=what))))
    sys.stdout.flush()
    os._exit(0)  # as workers do


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="7b-video2world", choices=[*VARIANTS])
    parser.add_argument("--method", default="lora", choices=["lora", "full"])
    parser.add_argument("--settings", nargs="+", default=["train.recompute=auto", "train.recompute=block"])
    parser.add_argument("--frames", type=int, default=121, help="pixel frames, 8k+1")
    parser.add_argument("--height", type=int, default=704, help="pixels, a multiple of 16")
    parser.add_argument("--width", type=int, default=1280, help="pixels, a multiple of 16")
    parser.add_argument("--processes", type=int, default=1, help="with a GPU each, to be held against one alone")
    parser.add_argument("--report", default="", help=argparse.SUPPRESS)
    parser.add_argument("--peer", default="none", choices=["none", "diffusers"])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


def ours(options: argparse.Namespace, setting: str, folder: Path) -> Callable[[], Tensor]:
    """A step as the stage `train` does it, on a batch that is on the device already; its loss and gradients' norm."""
    overrides = [f"{key}={getattr(options, name)}" for key, name in SIZES.items()]
    overrides.append(f"text_encoder.width={VARIANTS[options.variant].crossattn_emb_channels}")
    if options.report:
        count = options.processes
        overrides += ["parallelism.use=fsdp", f"parallelism.num_processes={count}", f"train.batch_size={count}"]
    overrides += [key for key in setting.split(",") if options.report or not key.startswith(TOGETHER)]
    recipe = folder / "step.toml"
    recipe.write_text(RECIPE)
    plan = make_plan(read_recipe(recipe, overrides), load_plugins(), runs=folder)
    tell = print if os.environ.get("RANK", "0") == "0" else (lambda text: None)
    if plan.train.deterministic:
        be_deterministic()
    device = torch.device(options.device)
    context = make_context(folder, device=device, dtype=torch.bfloat16, emit=lambda event: tell(event.text))
    parallelism = component(plan, "parallelism", context)
    world = parallelism.start()
    context = replace(context, world=world, device=torch.device(world.device))
    work = assemble(plan, Run(plan.folder), context, parallelism)
    parameters, optimizer, batch = list(work.parameters.values()), work.optimizer, draw_batch(options, context.device)

    def step() -> Tensor:
        loss = work.model.loss(batch, [generator(0, "noise", work.step)]).total
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        work.step += 1
        return loss.detach() + norm

    return step


TOGETHER = ("parallelism.", "train.batch_size=")
SIZES = {
    "dataset.num_frames": "frames",
    "dataset.height": "height",
    "dataset.width": "width",
    "model.variant": "variant",
    "method.use": "method",
}


def latent_size(options: argparse.Namespace) -> tuple[int, int, int]:
    return 1 + (options.frames - 1) // 8, options.height // 8, options.width // 8


def draw_batch(options: argparse.Namespace, device: torch.device) -> Batch:
    """The same in every process, for those that share a sample."""
    config = VARIANTS[options.variant]
    torch.manual_seed(0)
    latents = torch.randn(1, config.latent_channels, *latent_size(options), device=device)
    tokens = torch.randn(1, TEXT_TOKENS, config.crossattn_emb_channels, device=device)
    mask = torch.ones(1, TEXT_TOKENS, dtype=torch.bool, device=device)
    return Batch(latents, TextEmbedding(tokens, mask), torch.tensor([float(FPS)], device=device))


def theirs(config: DiTConfig, options: argparse.Namespace, device: torch.device) -> Callable[[], Tensor]:
    """diffusers' network with peft's adapters on the same layers and gradient checkpointing."""
    from peft import LoraConfig

    net = network_of_diffusers(config, device)
    if options.method == "lora":
        net.requires_grad_(False)
        net.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=["to_q", "to_v"]))
    net.enable_gradient_checkpointing()
    net.train()
    parameters = [each for each in net.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)
    size = latent_size(options)
    x = torch.randn(1, config.in_channels, *size, device=device, dtype=torch.bfloat16)
    text = torch.randn(1, TEXT_TOKENS, config.crossattn_emb_channels, device=device, dtype=torch.bfloat16)
    noise_level = torch.tensor([0.1], device=device, dtype=torch.bfloat16)

    def step() -> Tensor:
        out = net(x, noise_level, text, fps=FPS, return_dict=False)[0]
        loss = (out.float() - x[:, : config.latent_channels].float()).square().mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach() + norm

    return step


def step_flops(options: argparse.Namespace) -> float:
    """Of the forward and the backward pass of a sample, as training counts them."""
    channels, frozen = VARIANTS[options.variant].latent_channels, options.method != "full"
    return Video2WorldOptions(variant=options.variant).flops((channels, *latent_size(options)), TEXT_TOKENS, frozen)


if __name__ == "__main__":
    main()
