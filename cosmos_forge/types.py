"""What components hand each other. Importing this file imports no torch.

Shape suffixes: B batch, C channels, T time, H height, W width, L text tokens, D width of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cosmos_forge.events import Event
    from cosmos_forge.options import Download


@dataclass(frozen=True)
class Clip:
    """A piece of video with its caption.

    key: unique and stable within its dataset; what stands before a "#" names the source (a file), so that windows of
    one source never fall on both sides of a held-out split. frames_CTHW: uint8 RGB, 0 to 255. fps: frames a second.
    """

    key: str
    frames_CTHW: Tensor
    fps: float
    caption: str


@dataclass(frozen=True)
class Rejected:
    """Something a dataset found and will not use: its key (a path, say) and why, in words a person can act on."""

    key: str
    reason: str


@dataclass(frozen=True)
class Source:
    """A file that a dataset looks at. key: its name within the dataset. caption: None where there is none. reason: why
    it will not be used, whatever its frames are; empty where nothing is known against it."""

    key: str
    path: Path
    caption: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class TextEmbedding:
    """Encoded prompts. tokens_BLD: float, zero where masked. mask_BL: bool, true on real tokens."""

    tokens_BLD: Tensor
    mask_BL: Tensor

    def each(self, change: Callable[[Tensor], Tensor]) -> TextEmbedding:
        """With every tensor changed, as moved to a device."""
        return TextEmbedding(change(self.tokens_BLD), change(self.mask_BL))


@dataclass(frozen=True)
class Batch:
    """What a model's loss is computed on; one shape a batch.

    latents_BCTHW: the latent tokenizer's output. text: prompts of the B samples. fps_B: frames a second, float32.
    """

    latents_BCTHW: Tensor
    text: TextEmbedding
    fps_B: Tensor

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """With every tensor changed, as moved to a device."""
        return Batch(change(self.latents_BCTHW), self.text.each(change), change(self.fps_B))


@dataclass(frozen=True)
class Loss:
    """total: the scalar to differentiate, the mean over the batch. metrics: detached scalars to log beside it."""

    total: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Condition:
    """What a generated video is conditioned on.

    latents_BCTHW: the whole clip's latents, of which the first `given` latent frames are known and the rest ignored.
    negative_text: what guidance leads away from; None means the null text the model was trained with.
    seed: of the small noise that a model puts on the given frames.
    """

    latents_BCTHW: Tensor
    given: int
    text: TextEmbedding
    negative_text: TextEmbedding | None
    fps_B: Tensor
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """What a fine-tuning method leaves behind.

    name: stem of the file it becomes. tensors: by name, on the CPU. texts: small files to lie beside it, by file name.
    """

    name: str
    tensors: dict[str, Tensor]
    texts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """What training left, for a model that writes it in a form of its own.

    step: optimizer steps done, in which `samples` clips were seen. base: plain weights before training, by name.
    regular, averaged: the method's results, the latter where averages were kept. chosen: that of the two which the
    export is of. merged: plain weights after training, with it. All on the CPU.
    """

    step: int
    samples: int
    base: Mapping[str, Tensor]
    regular: Result
    averaged: Result | None
    chosen: Result
    merged: Mapping[str, Tensor]


@dataclass(frozen=True)
class Activations:
    """What training on one sample keeps for its gradients, in elements of the dtype that the network computes in.

    whole, products, attention, block: what a repeated block keeps until its backward pass if it recomputes nothing, all
    but matrix products and attention, all but attention, or everything; each includes its input. working: what a block
    takes besides in a forward pass, also in one that is computed again. flowing: in a backward pass for which it has
    kept its products; what it kept goes as gradients come. Upper bounds.
    """

    whole: int
    products: int
    attention: int
    block: int
    working: int
    flowing: int


@dataclass(frozen=True)
class World:
    """The processes of a stage, seen from one of them.

    rank of size processes in all; data_rank of data_size groups that each work on samples of their own (processes of
    one group share a sample, and are neighbours in rank). device: where this process computes, "cpu" or "cuda:0".
    """

    rank: int = 0
    size: int = 1
    data_rank: int = 0
    data_size: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class Context:
    """What the host gives a component when it is built in a worker.

    device, dtype: where and in which precision to compute. seed: of the run. files: the folder holding a download that
    the component's `needs` named. resolve: the file behind what a recipe calls weights: a path, or "run:NAME" for what
    a run exported. component: builds another component by kind and name, with options as a recipe would give them.
    emit: reports an event.
    """

    device: torch.device
    dtype: torch.dtype
    world: World
    seed: int
    folder: Path
    files: Callable[[Download], Path]
    resolve: Callable[[str], Path]
    component: Callable[..., Any]
    emit: Callable[[Event], None]


@dataclass(frozen=True)
class LoggerContext:
    """What the host gives a logger: the run's name and folder, and every setting of its plan, by table and key.

    A logger may write to the folder, under its own name.
    """

    name: str
    folder: Path
    settings: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Refusal:
    """Why a guardrail refuses. category: a word or two for it, as "violence"; reason: a sentence for a person."""

    category: str
    reason: str = ""
