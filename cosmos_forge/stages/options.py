"""What a recipe may say about the run as a whole and about each stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cosmos_forge.options import Options

BAD_VIDEO = (  # the default of Cosmos inference, where --negative_prompt is not given
    "The video captures a series of frames showing ugly scenes, static with no motion, motion blur, over-saturation, "
    "shaky footage, low resolution, grainy texture, pixelated images, poorly lit areas, underexposed and overexposed "
    "scenes, poor color balance, washed out colors, choppy sequences, jerky movements, low frame rate, artifacting, "
    "color banding, unnatural transitions, outdated special effects, fake elements, unconvincing visuals, poorly "
    "edited content, jump cuts, visual noise, and flickering. Overall, the video is of poor quality."
)


class RunOptions(Options):
    """The keys above the first table."""

    stages: list[str] = Field(["fetch", "prepare", "train", "export", "generate"], description="what to do, in order")
    seed: int = Field(0, ge=0, description="decides all randomness of data order, noise and fresh weights")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if there is one")
    precision: Literal["bf16", "fp32"] = Field("bf16", description="of the network's computation")
    compile: Literal["auto", "blocks", "none"] = Field(
        "auto", description="torch.compile for the model's repeated blocks, one by one; auto: on a GPU"
    )


class FetchOptions(Options):
    """Downloads what the recipe's components need."""


class PrepareOptions(Options):
    """Encodes every clip to latents and every caption to an embedding, once."""

    held_out: int = Field(0, ge=0, description="sources (files) kept from training, to judge what was learned")
    cache: str | None = Field(
        None, description="folder of prepared clips, shared by runs; default: `cache` beside them"
    )


class TrainOptions(Options):
    """Fine-tunes the model on the prepared clips."""

    steps: int = Field(ge=1, description="optimizer steps")
    batch_size: int = Field(1, ge=1, description="clips an optimizer step, over all processes")
    micro_batch_size: int | None = Field(
        None, ge=1, description="clips a process takes at once; default: all of its share. Less needs less memory"
    )
    lr: float = Field(ge=0, description="learning rate after the warm-up; 1e-4 is usual for LoRA, 5e-5 for full")
    betas: tuple[float, float] = Field((0.9, 0.99), description="AdamW's decay rates; as in Cosmos post-training")
    eps: float = Field(1e-10, gt=0, description="AdamW's epsilon; as in Cosmos post-training")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's decoupled weight decay; as in Cosmos post-training")
    warmup_steps: int = Field(0, ge=0, description="steps over which the learning rate rises linearly from near zero")
    final_lr_factor: float = Field(1.0, ge=0, le=1, description="the learning rate falls linearly to this part of it")
    clip_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this global L2 norm")
    optimizer_state: Literal["fp32", "8bit"] = Field(
        "fp32", description="AdamW's two moments: 8 bytes a trained number, or 2 and a little less exact"
    )
    recompute: Literal["auto", "none", "products", "attention", "block"] = Field(
        "auto",
        description="what blocks compute again in the backward pass to need less memory: nothing, all but matrix "
        "products and attention, all but attention, or everything; auto: as little as fits on a GPU, nothing on a CPU",
    )
    deterministic: bool = Field(
        False,
        description="the same bits each time on GPUs too, with as many processes; slower, attention above all. On CPUs "
        "they are the same anyway",
    )
    ema: bool = Field(False, description="keep power-function averaged weights (EDM2, arXiv 2312.02696)")
    ema_width: float = Field(0.1, gt=0, lt=0.28, description="relative width of the average; 0.1 as in Cosmos")
    save_every: int = Field(200, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints to keep")
    log_every: int = Field(10, ge=1, description="steps between reports")
    validate_every: int | None = Field(
        None,
        ge=1,
        description="steps between judgements on held-out clips: before the first step, at these and after the last, "
        "each with a checkpoint, of which the best is kept; default: none. The result stays the same bit by bit",
    )
    validate_samples: int = Field(
        2, ge=0, description="held-out clips that each judgement continues as `generate` would, in `samples`"
    )

    @model_validator(mode="after")
    def _betas_in_range(self) -> TrainOptions:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), got {list(self.betas)}")
        return self

    def micro_batch(self, groups: int) -> int:
        """Clips that one of `groups`, which share a step's, takes at once."""
        return self.micro_batch_size or self.batch_size // groups

    def accumulation(self, groups: int) -> int:
        """How often it does so in a step."""
        return self.batch_size // groups // self.micro_batch(groups)


class ExportOptions(Options):
    """Writes the trained weights as plain safetensors under the published names."""

    checkpoint: Literal["newest", "best"] = Field(
        "newest", description="best: that with the lowest held-out loss, see train.validate_every"
    )
    weights: Literal["auto", "ema", "regular"] = Field("auto", description="auto: the averaged ones if train.ema is on")
    merge: bool = Field(True, description="also write whole weights with the method's result merged in")
    forms: list[str] = Field([], description="forms to write besides, of those that the model offers")
    folder: str | None = Field(None, description="where these go; default: beside the safetensors, in the run")


class GenerateOptions(Options):
    """Generates videos: continues the held-out clips, or videos and pictures of yours."""

    input: str | None = Field(
        None,
        min_length=1,
        description="a picture or video to continue, a folder of them (NAME.txt beside one is its prompt), or a JSONL "
        'whose lines are {"visual_input": path, "prompt": text} as in Cosmos; default: every held-out clip',
    )
    weights: str | None = Field(
        None,
        description="what to generate with, as model.weights takes it; @best, @400 or @ema are of this run; default: "
        "what this run exported, without training model.weights",
    )
    adapters: dict[str, float] = Field(
        {},
        description="what is added to the weights, with strengths: folders or files of adapters, run:NAME or "
        'run:NAME@400; { "run:kitchen" = 1.0, "other/adapter_model.safetensors" = 0.6 }',
    )
    prompt: str | list[str] | None = Field(
        None,
        description="what happens, where folder or JSONL say nothing; a list has one for each chunk of a long video; "
        "default: a held-out clip's caption, else no text",
    )
    negative_prompt: str = Field(
        BAD_VIDEO, description='what guidance leads away from; "" is the null text; the default is that of Cosmos'
    )
    given_frames: int = Field(
        9, ge=1, description="frames to go on from, the last of a video: 1, 9, 17, .. (8k+1); a picture gives 1"
    )
    resize: Literal["stretch", "crop"] = Field(
        "stretch", description="stretch: proportions may change, as in Cosmos; crop: keeps them and cuts off the edges"
    )
    guidance: float = Field(7.0, ge=0, description="cond + guidance * (cond - uncond); 0 is off and twice as fast")
    seed: int = Field(1, ge=0, description="of the noise a video starts from")
    num_frames: int | None = Field(
        None, ge=1, description="frames of the video, in chunks if more than chunk_frames; default: chunk_frames"
    )
    chunk_frames: int | None = Field(
        None, ge=1, description="frames made in one go; default: as the dataset's, else 121 as in Cosmos"
    )
    overlap: int = Field(9, ge=1, description="frames at a chunk's end that the next goes on from: 1, 9, 17, .. (8k+1)")
    height: int | None = Field(None, ge=16, description="pixels; default: as the dataset's")
    width: int | None = Field(None, ge=16, description="pixels; default: as the dataset's")
    fps: float | None = Field(None, ge=0.01, description="frames a second; default: the input's")
    compare_base: bool = Field(False, description="also continue held-out clips as before training, and compare")
    memory: Literal["auto", "resident", "streamed", "fp8"] = Field(
        "auto",
        description="where the network's weights lie: on the GPU; in host memory, from where blocks come in time; on "
        "the GPU in 8 bits, which is less exact; auto: the first of these that fits, but never 8 bits",
    )
    processes_per_video: int | None = Field(
        None,
        ge=1,
        description="processes that make a video together; default: one where there are as many videos as processes, "
        "else all that can",
    )
