"""Prepared clips: latents and text embeddings on disk, and the order in which training takes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from cosmos_forge.errors import ForgeError, show_path
from cosmos_forge.files import atomic, write_text
from cosmos_forge.types import Batch, TextEmbedding


@dataclass(frozen=True)
class PreparedClip:
    """One line of `prepared/index.jsonl`. held_out: kept from training. latents, text: files with its tensors. shape:
    (C, T, H, W) of the latents."""

    key: str
    held_out: bool
    fps: float
    caption: str
    latents: str
    text: str
    shape: tuple[int, ...] = ()


def write_index(path: Path, clips: Sequence[PreparedClip]) -> None:
    """Writes `prepared/index.jsonl` atomically."""
    write_text(path, "".join(json.dumps(asdict(clip)) + "\n" for clip in clips))


def read_index(path: Path) -> list[PreparedClip]:
    """The prepared clips of a run, in the dataset's order."""
    if not path.exists():
        raise ForgeError("there are no prepared clips in this run", "run the stage `prepare` first")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [PreparedClip(**{**row, "shape": tuple(row.get("shape", ()))}) for row in rows]


def require_tensors(clips: Sequence[PreparedClip]) -> None:
    """Raises ForgeError where the cache no longer holds what was prepared."""
    bad = {path for path in {path for clip in clips for path in (clip.latents, clip.text)} if not is_whole(Path(path))}
    if gone := [clip for clip in clips if bad & {clip.latents, clip.text}]:
        where = show_path(Path(gone[0].latents).parent.parent)
        what = f"the tensors of {len(gone)} of {len(clips)} prepared clips are gone from {where}, or damaged"
        raise ForgeError(what, "`forge prepare` with this recipe encodes them again")


def is_whole(path: Path) -> bool:
    """Whether a safetensors file is there, with all of its tensors; after a power cut it may not be."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


def save_latents(path: Path, latents_CTHW: Tensor, fps: float) -> None:
    """Writes a clip's latents, atomically."""
    save_tensors(path, {"latents": latents_CTHW}, fps=repr(fps))


def read_facts(path: Path) -> tuple[tuple[int, ...], float] | None:
    """(C, T, H, W) of a clip's latents, which are not read, and its frames a second; None where they are not there."""
    if not is_whole(path):
        return None
    with safe_open(path, framework="pt") as file:
        fps = (file.metadata() or {}).get("fps")
        return (tuple(file.get_slice("latents").get_shape()), float(fps)) if fps else None


def save_tensors(path: Path, tensors: dict[str, Tensor], **facts: str) -> None:
    """Writes a safetensors file atomically, with `facts` in its header."""
    with atomic(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, facts)


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
    texts = [pad_text(load_file(clip.text)["tokens"].float(), max_tokens) for clip in clips]
    return Batch(
        latents_BCTHW=torch.stack(latents),
        text=TextEmbedding(torch.cat([text.tokens_BLD for text in texts]), torch.cat([text.mask_BL for text in texts])),
        fps_B=torch.tensor([clip.fps for clip in clips], dtype=torch.float32),
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`; does not wait for the copy where memory is pinned."""
    return batch.each(lambda tensor: tensor.to(device, non_blocking=True))


def clip_at(position: int, clips: int, seed: int) -> int:
    """Index of the clip that training takes at `position` (0-based count of samples): every clip once an epoch, in an
    order of the epoch's own. A function of its arguments alone, so that resuming needs no state."""
    epoch, place = divmod(position, clips)
    order = torch.randperm(clips, generator=generator(seed, "order", epoch))
    return int(order[place])


class Order:
    """Which clip training takes at each position, where all of an optimizer step's clips must have one shape.

    A lap is as many steps as there are clips. A shape has one for each of its clips, spread evenly over the lap with
    chance in the small; within a shape each clip comes once before any comes again. So on the way every clip is seen
    equally often, in whatever shape. All is a function of seed and position: resuming needs no state, and the number of
    processes does not matter. Where all clips are of one shape it is `clip_at`.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], batch_size: int, seed: int) -> None:
        self.batch_size, self.seed, self.steps = batch_size, seed, len(shapes)
        self.members = [
            [index for index, each in enumerate(shapes) if each == shape] for shape in dict.fromkeys(shapes)
        ]
        self.turns = lru_cache(2)(self._turns)

    def clip(self, position: int) -> int:
        """Index of the clip at `position` (0-based count of samples)."""
        if self.batch_size == 1:
            return clip_at(position, self.steps, self.seed)
        step, place = divmod(position, self.batch_size)
        lap, turn = divmod(step, self.steps)
        shape, number = self.turns(lap)[turn]
        members = self.members[shape]
        return members[clip_at((lap * len(members) + number) * self.batch_size + place, len(members), self.seed)]

    def _turns(self, lap: int) -> list[tuple[int, int]]:
        """The shape of each step of a lap, and how many steps of the lap it had before."""
        chance = torch.rand(self.steps, generator=generator(self.seed, "lap", lap), dtype=torch.float64).tolist()
        places = [
            ((number + chance.pop()) / len(members), shape, number)
            for shape, members in enumerate(self.members)
            for number in range(len(members))
        ]
        return [(shape, number) for _, shape, number in sorted(places)]


def generator(seed: int, *what: object) -> torch.Generator:
    """A CPU generator of its own for what it is used for: (seed, "noise", step, sample), say."""
    digest = hashlib.sha256(repr((seed, *what)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def batches(
    clips: Sequence[PreparedClip], order: Order, positions: Iterator[Sequence[int]], max_tokens: int, pin: bool
) -> Iterator[tuple[Sequence[int], Batch]]:
    """Batches for each sequence of positions, read ahead in a thread while the last one is computed on."""

    def read(places: Sequence[int]) -> tuple[Sequence[int], Batch]:
        batch = load_batch([clips[order.clip(place)] for place in places], max_tokens)
        return places, batch.each(Tensor.pin_memory) if pin else batch

    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        ahead = [pool.submit(read, places) for places in islice(positions, 3)]
        while ahead:
            ready = ahead.pop(0)
            ahead += [pool.submit(read, places) for places in islice(positions, 1)]
            yield ready.result()
