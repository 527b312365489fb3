"""Writes a folder from which diffusers loads `CosmosVideoToWorldPipeline` (or `CosmosTextToWorldPipeline`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cosmos_forge import ForgeError
from forge_cosmos1.tokenizer_weights import read_statistics, read_weights, to_diffusers
from forge_cosmos1.variants import PATCH, DiTConfig
from forge_cosmos1.weights_files import Entry
from forge_cosmos1.weights_names import to_diffusers as network_to_diffusers
from forge_cosmos1.weights_write import write_weights

STEM = "diffusion_pytorch_model"
VERSION = "0.34.0"  # of diffusers: the first that has these classes
SCHEDULER = {
    "_class_name": "EDMEulerScheduler",
    "_diffusers_version": VERSION,
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "sigma_schedule": "karras",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": 7.0,
    "final_sigmas_type": "sigma_min",
}
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "spiece.model")
ENCODER_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
ENCODER_FILES_PICKLED = ("config.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")


def write_pipeline(
    folder: Path,
    config: DiTConfig,
    entries: Mapping[str, Entry],
    tokenizer: Path | None,
    text_encoder: Path | None,
    on_tensor: Callable[[], None],
) -> list[str]:
    """Writes `folder`; returns what a person must know to load it."""
    parts = {"transformer": ["diffusers", "CosmosTransformer3DModel"], "scheduler": ["diffusers", "EDMEulerScheduler"]}
    _write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    if tokenizer:
        _write_vae(folder / "vae", tokenizer)
        parts["vae"] = ["diffusers", "AutoencoderKLCosmos"]
    if text_encoder:
        _copy(text_encoder, folder / "tokenizer", TOKENIZER_FILES)
        kept = ENCODER_FILES if any(text_encoder.glob("*.safetensors")) else ENCODER_FILES_PICKLED
        _copy(text_encoder, folder / "text_encoder", kept)
        parts |= {"tokenizer": ["transformers", "T5TokenizerFast"], "text_encoder": ["transformers", "T5EncoderModel"]}
    _write_transformer(folder / "transformer", config, entries, on_tensor)
    name = "CosmosVideoToWorldPipeline" if config.condition_mask else "CosmosTextToWorldPipeline"
    _write_json(folder / "model_index.json", {"_class_name": name, "_diffusers_version": VERSION, **parts})
    absent = [part for part in ("vae", "text_encoder", "tokenizer") if part not in parts]
    handed = f"not in the folder, so hand them to from_pretrained: {', '.join([*absent, 'safety_checker'])}"
    return ["logvar.* and net.pos_embedder.seq have no place in diffusers", handed]


def _write_transformer(
    folder: Path, config: DiTConfig, entries: Mapping[str, Entry], on_tensor: Callable[[], None]
) -> None:
    settings = {
        "_class_name": "CosmosTransformer3DModel",
        "_diffusers_version": VERSION,
        "in_channels": config.latent_channels + config.condition_mask,
        "out_channels": config.latent_channels,
        "num_attention_heads": config.num_heads,
        "attention_head_dim": config.model_channels // config.num_heads,
        "num_layers": config.num_blocks,
        "mlp_ratio": config.mlp_ratio,
        "text_embed_dim": config.crossattn_emb_channels,
        "adaln_lora_dim": config.adaln_lora_dim,
        "max_size": config.max_size,
        "patch_size": [1, PATCH, PATCH],
        "rope_scale": config.rope_ratio,
        "concat_padding_mask": True,
        "extra_pos_embed_type": "learnable",
    }
    _write_json(folder / "config.json", settings)
    renamed = {network_to_diffusers(name): entry for name, entry in entries.items()}
    write_weights(folder, STEM, {name: entry for name, entry in renamed.items() if name}, on_tensor)


def _write_vae(folder: Path, tokenizer: Path) -> None:
    state, statistics = to_diffusers(read_weights(tokenizer)), read_statistics(tokenizer, frames=1)
    width = len(state["encoder.conv_in.conv_s.weight"])
    settings = {
        "_class_name": "AutoencoderKLCosmos",
        "_diffusers_version": VERSION,
        "encoder_block_out_channels": [width, 2 * width, 4 * width, 4 * width],
        "decode_block_out_channels": [2 * width, 4 * width, 4 * width, 4 * width],
        "latents_mean": statistics.mean_CT.flatten().tolist(),
        "latents_std": statistics.std_CT.flatten().tolist(),
    }
    _write_json(folder / "config.json", settings)
    entries = {
        name: Entry(tuple(tensor.shape), tensor.dtype, partial(torch.clone, tensor)) for name, tensor in state.items()
    }
    write_weights(folder, STEM, entries, lambda: None)


def _copy(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    files = [file for pattern in patterns for file in sorted(source.glob(pattern))]
    if not files:
        raise ForgeError(f"{source} holds none of {', '.join(patterns)}", "name the folder of a T5 from the hub")
    target.mkdir(parents=True)
    for file in files:
        shutil.copy(file, target / file.name)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")
