"""What a recipe may say about the latent tokenizer. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from cosmos_forge import Download, Options, Problem

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

COMPRESSION = 8  # frames or pixels a latent, in time, height and width alike
LATENT_CHANNELS = 16


class TokenizerOptions(Options):
    """16 channels for 8 frames of 8x8 pixels: the video tokenizer of Cosmos-Predict1."""

    weights: str | None = Field(
        None,
        description="folder with mean_std.pt and encoder.jit, decoder.jit (or model.pt, or safetensors), or diffusers'"
        " `vae`; default: nvidia/Cosmos-Tokenize1-CV8x8x8-720p from the hub",
    )
    chunk_frames: int = Field(
        121, ge=1, le=121, description="frames of a clip of its own; longer ones are cut. 121 as published"
    )
    single_pictures: bool = Field(
        False, description="clips of one frame are pictures, with statistics of their own, not the beginning of a video"
    )

    @field_validator("chunk_frames")
    @classmethod
    def _whole_latents(cls, value: int) -> int:
        if value % COMPRESSION != 1:
            raise ValueError(f"must be 8k+1 ({_neighbours(value, 1)}), got {value}")
        return value

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(16, latent frames, height / 8, width / 8). Raises ValueError, saying what fits."""
        for name, size in (("height", height), ("width", width)):
            if size < COMPRESSION or size % COMPRESSION:
                raise ValueError(f"{name} must be a multiple of 8 ({_neighbours(size, 0)}), got {size}")
        chunks, rest = divmod(num_frames, self.chunk_frames)
        if chunks and rest:
            raise ValueError(f"num_frames must be at most {self.chunk_frames} or a multiple of it, got {num_frames}")
        if not chunks and num_frames % COMPRESSION != 1:
            raise ValueError(f"num_frames must be 8k+1 ({_neighbours(num_frames, 1)}), got {num_frames}")
        latent_frames = chunks * latent_length(self.chunk_frames) if chunks else latent_length(num_frames)
        return LATENT_CHANNELS, latent_frames, height // COMPRESSION, width // COMPRESSION

    def needs(self) -> list[Download]:
        return [PUBLISHED] if self.weights is None else []

    def check(self, plan: Plan) -> Iterable[Problem]:
        if self.weights is not None and not plan.resolve(self.weights).is_dir():
            yield plan.problem(
                "latent_tokenizer",
                "weights",
                f"there is no folder {self.weights}",
                "name the folder that holds encoder.jit, or leave `weights` out to download it",
            )


PUBLISHED = Download(
    "nvidia/Cosmos-Tokenize1-CV8x8x8-720p",
    ("encoder.jit", "decoder.jit", "mean_std.pt", "image_mean_std.pt"),
    gigabytes=0.23,  # 105,653,696 parameters in bfloat16 and their code, as CV8x8x8's first release weighs
    licence="NVIDIA Open Model License",
)


def latent_length(num_frames: int) -> int:
    """Latent frames of 8k+1 frames: one for the first, one for every 8 after it."""
    return 1 + (num_frames - 1) // COMPRESSION


def _neighbours(size: int, rest: int) -> str:
    below = max(size - rest, COMPRESSION * (1 - rest)) // COMPRESSION * COMPRESSION + rest
    return f"{below} or {below + COMPRESSION} fits"
