"""Offers `toy-physics`, the latent tokenizer `toy` and the text encoder `toy`."""

from __future__ import annotations

from pydantic import Field

from cosmos_forge import Options, hookimpl

LATENT_CHANNELS = 16
FRAMES_A_LATENT = 8
PIXELS_A_LATENT = 4


class ToyPhysicsOptions(Options):
    """Simulated balls that bounce in a box, written as MP4 files with captions."""

    path: str | None = Field(None, description="folder the clips go to; default: `simulated` in the run directory")
    clips: int = Field(64, ge=1, description="how many, each with a scene of its own")
    balls: int = Field(2, ge=1, le=2, description="at most in a scene; two bounce off each other")
    num_frames: int = Field(17, ge=1, description="frames of a clip, 8k+1 for most latent tokenizers")
    height: int = Field(64, ge=16, multiple_of=2, description="pixels, even")
    width: int = Field(64, ge=16, multiple_of=2, description="pixels, even")
    fps: int = Field(12, ge=1, le=60, description="frames a second")
    gravity_x: float = Field(0.0, ge=-10, le=10, description="to the right, in shorter sides a second squared")
    gravity_y: float = Field(1.5, ge=-10, le=10, description="downwards, in shorter sides a second squared")
    seed: int = Field(0, ge=0, description="another seed, other scenes")


class ToyTokenizerOptions(Options):
    """16 channels for 8 frames of 4x4 pixels, by a fixed cosine transform; no weights."""

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        if num_frames % FRAMES_A_LATENT != 1:
            below = max(num_frames - 2, 0) // FRAMES_A_LATENT * FRAMES_A_LATENT + 1
            raise ValueError(
                f"num_frames must be 8k+1 for this latent tokenizer, got {num_frames}; {below} or {below + 8} fits"
            )
        step = 2 * PIXELS_A_LATENT  # even latents, so that a network may take them in patches of 2x2
        for name, size in (("height", height), ("width", width)):
            if size < step or size % step:
                below = max(size // step, 1) * step
                raise ValueError(
                    f"{name} must be a multiple of {step} for this latent tokenizer, got {size}; "
                    f"{below} or {below + step} fits"
                )
        return (
            LATENT_CHANNELS,
            1 + (num_frames - 1) // FRAMES_A_LATENT,
            height // PIXELS_A_LATENT,
            width // PIXELS_A_LATENT,
        )


class ToyTextOptions(Options):
    """Every word a fixed random vector, plus its position; no weights."""

    width: int = Field(64, ge=2, multiple_of=2, description="numbers a token")
    max_tokens: int = Field(32, ge=1, description="words that are read; the rest of a prompt is cut off")


@hookimpl
def register_datasets(register):
    register("toy-physics", options=ToyPhysicsOptions, build="forge_toy.physics:simulated")


@hookimpl
def register_latent_tokenizers(register):
    register("toy", options=ToyTokenizerOptions, build="forge_toy.tokenizer:ToyTokenizer")


@hookimpl
def register_text_encoders(register):
    register("toy", options=ToyTextOptions, build="forge_toy.text:ToyTextEncoder")
