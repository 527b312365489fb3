"""Prepared clips: latents and text embeddings on disk, and the order in which training takes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cosmos_forge.errors import ForgeError
from cosmos_forge.files import atomic, write_text
from cosmos_forge.types import Batch, TextEmbedding


@dataclass(frozen=True)
class PreparedClip:
    """One line of `prepared/index.jsonl`. held_out: kept from training. latents, text: files with its tensors."""

    key: str
    held_out: bool
    fps: float
    caption: str
    latents: str
    text: str


def write_index(path: Path, clips: Sequence[PreparedClip]) -> None:
    """Writes `prepared/index.jsonl` atomically."""
    write_text(path, "".join(json.dumps(asdict(clip)) + "\n" for clip in clips))


def read_index(path: Path) -> list[PreparedClip]:
    """The prepared clips of a run, in the dataset's order."""
    if not path.exists():
        raise ForgeError("there are no prepared clips in this run", "run the stage `prepare` first")
    return [PreparedClip(**json.loads(line)) for line in path.read_text().splitlines()]


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes a safetensors file atomically."""
    with atomic(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)


def pad_text(tokens_LD: Tensor, max_tokens: int) -> TextEmbedding:
    """One prompt's real tokens, padded with zeros to `max_tokens`; float32."""
    length, width = tokens_LD.shape
    tokens_BLD = torch.zeros(1, max_tokens, width)
    tokens_BLD[0, :length] = tokens_LD
    mask_BL = torch.arange(max_tokens)[None] < length
    return TextEmbedding(tokens_BLD, mask_BL)


def load_batch(clips: Sequence[PreparedClip], max_tokens: int) -> Batch:
    """Reads clips of one shape into a batch on the CPU."""
    latents = [load_file(clip.latents)["latents"] for clip in clips]
    shapes = {tuple(each.shape) for each in latents}
    if len(shapes) > 1:
        raise ForgeError(f"clips of different shapes in one batch: {sorted(shapes)}", "set train.micro_batch_size = 1")
    texts = [pad_text(load_file(clip.text)["tokens"].float(), max_tokens) for clip in clips]
    return Batch(
        latents_BCTHW=torch.stack(latents),
        text=TextEmbedding(torch.cat([text.tokens_BLD for text in texts]), torch.cat([text.mask_BL for text in texts])),
        fps_B=torch.tensor([clip.fps for clip in clips], dtype=torch.float32),
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`; does not wait for the copy where memory is pinned."""
    return Batch(
        batch.latents_BCTHW.to(device, non_blocking=True),
        TextEmbedding(
            batch.text.tokens_BLD.to(device, non_blocking=True), batch.text.mask_BL.to(device, non_blocking=True)
        ),
        batch.fps_B.to(device, non_blocking=True),
    )


def clip_at(position: int, clips: int, seed: int) -> int:
    """Index of the clip that training takes at `position` (0-based count of samples): every clip once an epoch, in an
    order of the epoch's own. A function of its arguments alone, so that resuming needs no state."""
    epoch, place = divmod(position, clips)
    order = torch.randperm(clips, generator=generator(seed, "order", epoch))
    return int(order[place])


def generator(seed: int, *what: object) -> torch.Generator:
    """A CPU generator of its own for what it is used for: (seed, "noise", step, sample), say."""
    digest = hashlib.sha256(repr((seed, *what)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def batches(
    clips: Sequence[PreparedClip], positions: Iterator[Sequence[int]], seed: int, max_tokens: int, pin: bool
) -> Iterator[tuple[Sequence[int], Batch]]:
    """Batches for each sequence of positions, read ahead in a thread while the last one is computed on."""

    def read(places: Sequence[int]) -> tuple[Sequence[int], Batch]:
        batch = load_batch([clips[clip_at(place, len(clips), seed)] for place in places], max_tokens)
        if pin:
            batch = Batch(
                batch.latents_BCTHW.pin_memory(),
                TextEmbedding(batch.text.tokens_BLD.pin_memory(), batch.text.mask_BL.pin_memory()),
                batch.fps_B.pin_memory(),
            )
        return places, batch

    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        ahead = [pool.submit(read, places) for places in islice(positions, 3)]
        while ahead:
            ready = ahead.pop(0)
            ahead += [pool.submit(read, places) for places in islice(positions, 1)]
            yield ready.result()
