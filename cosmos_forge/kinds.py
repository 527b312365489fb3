"""The contract: one Protocol a kind of component. `testing` holds a test class for each.

A component is built as `build(options, context)` (see `hookspecs`); `options` is the validated table of the recipe and
`context` a `types.Context`, for loggers a `types.LoggerContext`. Some kinds answer questions before anything is built;
what their Options must offer besides fields stands here too, as `<Kind>Options`. Tensors are on `context.device` unless
said otherwise.

Shape suffixes: B batch, C channels, T time, H height, W width, L tokens, D width of one, N heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from cosmos_forge.events import Stamped
    from cosmos_forge.types import Batch, Clip, Condition, Loss, Refusal, Rejected, Result, TextEmbedding, World


class DatasetOptions(Protocol):
    """num_frames, height, width: of every clip, in pixels; of the largest, where there are several sizes.

    What may be told besides, importing no torch:

    - `other_sizes`: the others, [num_frames, height, width] each.
    - `sources(files)`: the files that clips lie in, as `types.Source`, so that `forge data` need not build the dataset.
      `files` tells where a download lies, as `Context.files` does.
    - `clips(frames, height, width)`: the number of clips of a video of so many frames and that size as shown, in
      pixels, or why there is none.
    - `reads(folder)`, asked of the class: the settings with which it would read a folder; None where it would not.
    """

    num_frames: int
    height: int
    width: int


class Dataset(Protocol):
    """Clips, by index. Knows nothing of processes; may be built in several at once, and must be picklable.

    rejected: what was found and will not be used, each with its reason. Raises ForgeError where nothing is usable.
    """

    rejected: Sequence[Rejected]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Clip:
        """The clip; the same index gives the same clip. Raises ForgeError, saying why, where it cannot be read."""
        ...

    def key(self, index: int) -> str:
        """The key of the clip at `index`, without reading its frames."""
        ...

    def caption(self, index: int) -> str:
        """The caption of the clip at `index`, without reading its frames."""
        ...

    def fingerprint(self, index: int) -> str:
        """Changes whenever the frames of the clip would, or their rate; cheap, no decoding. Its latents are kept under
        it, and those of its caption under that, so that a new caption leaves the latents as they are."""
        ...


class LatentTokenizerOptions(Protocol):
    """latent_shape: (C, T, H, W) of the latents of a clip. Raises ValueError, saying what fits, where it does not."""

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]: ...


class LatentTokenizer(Protocol):
    """Video to latents of about zero mean and unit deviation, and back.

    Causal in time: the first latent frame depends on the first frame alone, and the latents of a clip's beginning are
    the beginning of its latents; so the given frames of a video to be generated can be encoded by themselves.
    """

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """RGB in [-1, 1], float, T = 8k+1 -> latents_BCTHW of `latent_shape`, in the context's dtype."""
        ...

    def decode(self, latents_BCTHW: Tensor) -> Tensor:
        """Latents -> RGB about [-1, 1] (not clamped), float32, as many frames as were encoded."""
        ...


class TextEncoderOptions(Protocol):
    """width: D of a token. max_tokens: L, to which every prompt is padded with zeros or cut."""

    @property
    def width(self) -> int: ...

    @property
    def max_tokens(self) -> int: ...


class TextEncoder(Protocol):
    """Prompts to embeddings."""

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        """One prompt gives the same embedding alone and in company; float32, exactly zero where masked."""
        ...


class Denoiser(Protocol):
    """E[clean | noisy] under a model, with its condition and guidance inside. Latents are scaled by sigma_data."""

    def __call__(self, x_BCTHW: Tensor, sigma_B: Tensor) -> Tensor:
        """x = clean + sigma * noise, float32 or wider -> the estimate of clean (x0), float32."""
        ...

    def impose(self, x_BCTHW: Tensor, sigma_B: Tensor) -> Tensor:
        """`x` with the given frames put in its place at noise level `sigma`, as the network will see it. A sampler
        that wants to step from there instead of from its own state asks; others need not."""
        ...


class Evaluate(Protocol):
    """Calls each of the functions, here or in another process; what they return, in order, the same in each process."""

    def __call__(self, *branches: Callable[[], Tensor]) -> Sequence[Tensor]: ...


def in_turn(*branches: Callable[[], Tensor]) -> Sequence[Tensor]:
    """The `Evaluate` of one process."""
    return [branch() for branch in branches]


class ModelOptions(Protocol):
    """weights: what to start from, as `Context.resolve` takes it; None for the component's own default.

    What may be told besides; what is not is left out, wherever it would be of use:

    - `beginning`: names of all fields, `weights` among them, that tell how these are read. A checkpoint is put together
      from what its run began from, which is read with these as they are in that run.
    - `own_name(name)`: the net's name of a tensor that others call `name`.
    - `heads`: of a network that offers `share_sequence`, the number of its self-attentions' heads.
    - `forms`: what it can write of what was trained besides plain weights. By the name that `export.forms` takes, the
      import string of a function of the options and a `types.Trained`, which returns how to write each file or folder,
      by its path within the export's.
    - `untried(num_frames, height, width, fps, given_frames)`: a sentence for each thing about such a video that is new
      to the published weights.
    - `parameter_shapes()` and `blocks`: the shape of each parameter of the net by name, and what the model says too.
    - `activations(latent_shape, frozen, compiled=False, adapted=())`: what training needs memory for, the
      `types.Activations` of a sample with latents of (C, T, H, W). frozen: most weights are, or all train. compiled:
      the blocks are. adapted: names of a block's parameters that train.
    - `tokens(latent_shape)` and `flops(latent_shape, max_tokens, frozen=None)`: what the network makes of a sample, and
      additions and multiplications of the matrix products of one forward pass on it; with `frozen` told, of a forward
      and a backward pass that does without, or has, the gradients of weights. What is computed twice counts once.
    """

    weights: str | None


class Model(Protocol):
    """A video diffusion model in EDM form (Karras et al. 2022, arXiv 2206.00364).

    net: every tensor that is trained or saved, under the names of the published weights; parameters may be on the meta
    device until `load`. It may be replaced by what a parallelism makes of it. blocks: names within `net` of the
    repeated blocks, for sharding, compiling and recomputing. A net that can have each sample's tokens spread over
    processes offers `share_sequence(sequence: SharedSequence)`. sigma_data: deviation of the data it was trained on;
    latents handed to a tokenizer are x0 / sigma_data. sigmas: a few rising noise levels, spread over training's as
    these are likely; held-out clips are judged at each.
    """

    net: nn.Module
    blocks: Sequence[str]
    sigma_data: float
    sigmas: Sequence[float]

    def load(self) -> None:
        """Fills `net` with the weights that the options name, or with fresh ones; parameters that the loss goes without
        do not require gradients. Raises ForgeError listing every missing, unexpected or misshapen key."""
        ...

    def loss(self, batch: Batch, generators: Sequence[torch.Generator], sigma: float | None = None) -> Loss:
        """The training loss; with `sigma`, at that noise level, all else drawn as without. Sample b draws all its
        randomness from `generators[b]` (CPU), so that a sample's loss does not depend on how samples are spread over
        processes."""
        ...

    def denoiser(self, condition: Condition, guidance: float, evaluate: Evaluate = in_turn) -> Denoiser:
        """x0 = cond + guidance * (cond - uncond); 0 is off and costs one evaluation instead of two. The network is
        called in the functions that go to `evaluate`, once for each estimate; what they return is all that is used."""
        ...


class SharedSequence(Protocol):
    """A sample's tokens, spread over processes that all call the network on the whole sample and get its whole output.

    A network splits what it computes on by itself: tokens where they enter its blocks, with what else there is for each
    token; it joins them where they leave, and puts `attention` in place of each self-attention's kernel.
    """

    def split(self, x: Tensor, dim: int) -> Tensor:
        """All tokens along `dim` -> this process's, in order, as many in each process; padded with zeros if need be."""
        ...

    def join(self, x: Tensor, dim: int) -> Tensor:
        """This process's tokens -> all, without padding, the same in each process. Its gradient is such that the mean
        over all processes of a weight's gradients is right, be it used on parts or on the whole."""
        ...

    def attention(
        self, kernel: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """`kernel(q_BNLE, k_BNLE, v_BNLE) -> out_BNLE` of all L tokens and N heads -> one that takes this process's
        tokens, after a `split`, and attends to all. E is the width of a head."""
        ...


class Team(Protocol):
    """Processes that make one video together: the evaluations of guidance are parted among them, and within each part
    the tokens.

    sequence: for the network's `share_sequence`; None where a part is one process.
    """

    sequence: SharedSequence | None

    def evaluate(self, *branches: Callable[[], Tensor]) -> Sequence[Tensor]:
        """See `Evaluate`: each function is called by one part. All have the same bits, whatever devices differ in."""
        ...

    def tell(self, x: Tensor) -> Tensor:
        """What the team's first process brings, in all; the others bring a tensor of that shape and dtype."""
        ...


class MethodOptions(Protocol):
    """trained: how many numbers would train of a network with parameters of these shapes, by name; `forge explain` asks
    where the model's options tell them. It may be left out.

    Where results can be added to a network, several at once and each with a strength of its own, `reads(path)` may be
    asked of the class: whether what lies there is such a result, of its own or as others write it. The object, built
    with default options, then offers what `Adding` says.
    """

    def trained(self, shapes: Mapping[str, Sequence[int]]) -> int: ...


class Method(Protocol):
    """A way of fine-tuning."""

    def adapt(self, net: nn.Module) -> str:
        """Changes `net` in place, so that outputs stay what they were; returns a line that proves it took hold
        ("224 of 224 layers adapted, 6,651,904 parameters"). A target that matches nothing is a ForgeError."""
        ...

    def trainable(self, net: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters to train, by name; requires_grad is set on exactly these."""
        ...

    def result(self, state: Mapping[str, Tensor]) -> Result:
        """What to publish, from the trained parameters by name."""
        ...

    def merge(self, base: Mapping[str, Tensor], result: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Plain weights under the base's names, equal to the adapted network; `result` is what `result` gave."""
        ...


class Adding(Protocol):
    """What a `Method` offers besides where its results can be added to a network."""

    def read(self, path: Path, own_name: Callable[[str], str]) -> Mapping[str, Tensor]:
        """What lies at `path`, as `Method.result` would have given it. own_name: gives the network's own name of a
        tensor that others call otherwise. Raises ForgeError, listing them, for tensors that it has no use for."""
        ...

    def changes(self, result: Mapping[str, Tensor]) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """By the name of each weight that a result changes: from the weight, float32, what is added to it."""
        ...


class ParallelismOptions(Protocol):
    """processes: how many workers a stage gets on a machine with that many GPUs (0: none). Raises ValueError.

    Where several of them share a sample, `context` says how many do. One that spreads a copy of the weights over
    processes says over how many of so many: `pieces(processes)`.
    """

    def processes(self, gpus: int) -> int: ...


class Parallelism(Protocol):
    """How processes share a training step. Pieces of a parameter are DTensors, so that saving needs no help."""

    def start(self) -> World:
        """Joins the other processes, told by the environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR,
        MASTER_PORT); called once, before anything else. Where FORGE_STORE is set, the store at that address is open
        already, and this stage's part of it has FORGE_STORE for a prefix."""
        ...

    def apply(self, net: nn.Module, blocks: Sequence[str]) -> nn.Module:
        """The module to call in place of `net`; its gradients are means over the data_size groups. It computes in the
        context's dtype with weights that may be kept, and get gradients, in float32."""
        ...

    def team(self, size: int, branches: int) -> Team | None:
        """The team of this process, neighbours in rank being teams of `size`, each of `branches` parts; None for those
        left over, where `size` does not divide. Called by all processes. A parallelism may go without it: then each
        process makes videos of its own."""
        ...

    def exchange(self, net: nn.Module, on: bool) -> None:
        """Whether the next backward pass exchanges gradients; off for all but the last of accumulated batches."""
        ...

    def renew(self, net: nn.Module) -> None:
        """Called where weights were replaced between two passes: whole copies of them that are kept are forgotten."""
        ...

    def stop(self) -> None:
        """Leaves the other processes."""
        ...


class Sampler(Protocol):
    """Solves the probability-flow ODE (or SDE) of a denoiser. Knows sigma; knows nothing of text or video."""

    def sample(
        self,
        denoise: Denoiser,
        noise_BCTHW: Tensor,
        generator: torch.Generator | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Unit noise, float32 -> x0, float32; `on_step(i)` after step i = 1, 2, .. . State is never below float32."""
        ...


class SamplerOptions(Protocol):
    """steps: how often `on_step` will be called for one video; evaluations: how often the denoiser."""

    steps: int

    @property
    def evaluations(self) -> int: ...


class PromptUpsampler(Protocol):
    """Writes the prompt that a person would have written with more patience."""

    def upsample(self, prompt: str, frame_CHW: Tensor) -> str:
        """The prompt to use, from a person's (possibly empty) and the last given frame, uint8 RGB on the CPU. Raises
        ForgeError where none can be had."""
        ...


class GuardrailOptions(Protocol):
    """looks_at: "prompt", "frames" or both; told by the class, so that nothing is loaded before it is asked."""

    looks_at: tuple[str, ...]


class Guardrail(Protocol):
    """Refuses what should not be made; has the methods that its options' `looks_at` promises.

    Whatever it raises stops the video: a check that failed is no check.
    """

    def check_prompt(self, prompt: str) -> Refusal | None:
        """None where the prompt may be used."""
        ...

    def check_frames(self, frames_CTHW: Tensor) -> Refusal | Tensor:
        """The frames to be written instead of these, which may be the same; uint8 RGB on the CPU, a video or, of a
        long one, a piece after the other."""
        ...


class Logger(Protocol):
    """Carries a run's events elsewhere, from a thread of its own. If it raises, it is dropped, and the run goes on."""

    def on_event(self, stamped: Stamped) -> None:
        """Takes one event; each comes once, in the order of `events.jsonl`, from the start of this `forge` command."""
        ...

    def close(self) -> None:
        """No more will come. The run waits ten seconds for it."""
        ...
