"""Registers `new-plugin` and says what a recipe may choose about it."""

from __future__ import annotations

from pydantic import Field

from cosmos_forge import Options, hookimpl

FRAMES = 8  # of a latent, except of the first, which is one frame


class NewPluginOptions(Options):
    """Puts 8 frames of `patch` x `patch` pixels into channels; loses nothing and needs no weights."""

    patch: int = Field(2, ge=1, le=8, description="pixels a latent has on each side")

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, T, H, W) of a clip's latents. Raises ValueError, saying what fits, where a clip does not."""
        if num_frames % FRAMES != 1:
            raise ValueError(f"num_frames must be 8k+1, got {num_frames}; {num_frames // FRAMES * FRAMES + 1} fits")
        step = 2 * self.patch  # even numbers of latents, as most networks want them
        for name, size in (("height", height), ("width", width)):
            if size % step:
                raise ValueError(f"{name} must be a multiple of {step}, got {size}; {-(-size // step) * step} fits")
        channels = 3 * FRAMES * self.patch**2
        return channels, 1 + num_frames // FRAMES, height // self.patch, width // self.patch


@hookimpl
def register_latent_tokenizers(register):
    register("new-plugin", options=NewPluginOptions, build="new_plugin.latent_tokenizer:NewPlugin")
