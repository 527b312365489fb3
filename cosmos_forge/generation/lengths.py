"""How many frames a video has and how they are made: all in one go, or chunk after chunk. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Lengths:
    """frames: of the whole video. chunk: made in one go, the given ones among them. overlap: frames at the end of a
    chunk that the next one goes on from, and that are not shown again."""

    frames: int
    chunk: int
    overlap: int

    @property
    def chunks(self) -> int:
        """How many it takes; all are of one length."""
        further = max(0, self.frames - self.chunk)
        return 1 - (-further // (self.chunk - self.overlap)) if further else 1

    @property
    def surplus(self) -> int:
        """Frames at the end of the last chunk that are cut off."""
        return self.chunk + (self.chunks - 1) * (self.chunk - self.overlap) - self.frames

    def __str__(self) -> str:
        """ "241 frames: 3 chunks of 121, each from the last 9 of the one before; 104 are cut off at the end"."""
        if self.chunks == 1:
            return f"{self.frames} frames"
        verb = "is" if self.surplus == 1 else "are"
        cut = f"; {self.surplus} {verb} cut off at the end" if self.surplus else ""
        return (
            f"{self.frames} frames: {self.chunks} chunks of {self.chunk}, "
            f"each from the last {self.overlap} of the one before{cut}"
        )
