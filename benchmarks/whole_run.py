"""`forge run` with a recipe of the 7B model as its users start it: from MP4s to an exported adapter, and on to a video.

    python benchmarks/whole_run.py data/clips
    python benchmarks/whole_run.py data/clips train.recompute=block train.steps=3

The folder holds `videos/*.mp4` and `metas/*.txt`. Nothing is downloaded: network, tokenizer and text encoder have their
published sizes and random weights, which are written first; 24 GB in bfloat16. Further arguments are keys of the
recipe. Prints what the program prints, and then the time of each stage by its own account. Needs a GPU with 40 GiB and
80 GB of disk; `--tiny` tries the script itself on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from generate import write_tokenizer
from load_weights import write
from measure import print_machine
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import T5Config, T5EncoderModel

from forge_cosmos1.variants import VARIANTS

RECIPE = Path(__file__).parents[1] / "recipes" / "video2world-7b-lora.toml"
T5_11B = {"d_model": 1024, "d_kv": 128, "d_ff": 65536, "num_layers": 24, "num_heads": 128, "vocab_size": 32128}
TINY_T5 = {"d_model": 64, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 512}
TINY_KEYS = [
    "model.variant=tiny",
    "text_encoder.width=64",
    "text_encoder.max_tokens=32",
    "device=cpu",
    "precision=fp32",
]
TINY_KEYS += [
    "dataset.num_frames=17",
    "dataset.height=64",
    "dataset.width=64",
    "generate.height=64",
    "generate.width=64",
]
TINY_KEYS += ["generate.num_frames=17"]


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        work(options, Path(folder))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder with videos/*.mp4 and metas/*.txt")
    parser.add_argument("keys", nargs="*", help="of the recipe, as on the command line of forge")
    parser.add_argument("--folder", type=Path, help="where everything goes; default: the system's temporary folder")
    parser.add_argument("--tiny", action="store_true", help="the smallest networks and videos, on the CPU")
    return parser.parse_intermixed_args()


def work(options: argparse.Namespace, folder: Path) -> None:
    write_network(folder / "network", "tiny" if options.tiny else "7b-video2world")
    write_tokenizer(folder / "tokenizer", options.tiny)
    write_text_encoder(folder / "t5", options.tiny)
    keys = [
        'stages=["prepare","train","export","generate"]',
        f"dataset.path={options.clips.resolve()}",
        f"model.weights={folder / 'network'}",
        f"latent_tokenizer.weights={folder / 'tokenizer'}",
        f"text_encoder.model={folder / 't5'}",
        "text_encoder.dtype=bf16",
        f"prepare.cache={folder / 'cache'}",
        f"generate.input={min((options.clips.resolve() / 'videos').glob('*.mp4'))}",
        "generate.prompt=The camera moves on.",
        "train.steps=6",
        "train.log_every=1",
        "sampler.steps=2",
        *(TINY_KEYS if options.tiny else []),
        *options.keys,
    ]
    command = [sys.executable, "-m", "cosmos_forge", "run", str(RECIPE), "--name", "whole", *keys]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONUNBUFFERED": "1"}, check=False)
    run = folder / "runs" / "whole"
    if done.returncode:
        for log in sorted(run.rglob("*.log")):
            print(f"--- {log.name}\n{log.read_text()[-4000:]}")
        sys.exit(done.returncode)
    report(run, torch.device("cpu" if options.tiny else "cuda"))


def report(run: Path, device: torch.device) -> None:
    """The stages' times and the training steps, as Markdown, and what the export holds."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    print_machine(device)
    print("| | time |\n| --- | --- |")
    for event in events:
        if event["event"] == "StageFinished":
            print(f"| {event['stage']} | {event['seconds']:.1f} s |")
    print(
        "\n| step | time | tokens/s | TFLOP/s | waiting for data | GPU memory |\n| --- | --- | --- | --- | --- | --- |"
    )
    for event in events:
        if event["event"] == "Step":
            rates = f"{event['tokens_per_second']:.0f} | {event['tflops']:.3g} | {event['data_wait']:.1%}"
            print(f"| {event['step']} | {event['seconds']:.2f} s | {rates} | {event['memory_gib']:.1f} GiB |")
    for path in sorted((run / "export").rglob("*")):
        if path.is_file():
            print(f"{path.relative_to(run)}: {path.stat().st_size / 1e9:.3f} GB")


def write_network(folder: Path, variant: str) -> None:
    folder.mkdir()
    write(folder / "model.safetensors", VARIANTS[variant])


def write_text_encoder(folder: Path, tiny: bool) -> None:
    """A T5's encoder with random weights, and a tokenizer that gives each byte a token."""
    folder.mkdir()
    config = T5Config(**(TINY_T5 if tiny else T5_11B), is_gated_act=False)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = T5EncoderModel(config)
    model.to_empty(device="cpu" if tiny else "cuda")
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    letters = ["<pad>", "</s>", "<unk>", *map(chr, range(32, 127))]
    tokenizer = Tokenizer(models.WordLevel({letter: index for index, letter in enumerate(letters)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    main()
