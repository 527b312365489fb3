"""Registers `new-plugin` and says what a recipe may choose about it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from cosmos_forge import Options, Problem, hookimpl

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


class NewPluginOptions(Options):
    """Folders of pictures: each is a clip, its frames the pictures by name; `caption.txt` lies beside them."""

    path: str = Field(description="folder that holds a folder of *.png or *.jpg for each clip")
    num_frames: int = Field(17, ge=1, description="frames of a clip, the first of its folder; 8k+1 for most tokenizers")
    height: int = Field(256, ge=16, description="pixels, after resizing")
    width: int = Field(256, ge=16, description="pixels, after resizing")
    fps: float = Field(24.0, gt=0, description="frames a second")

    def check(self, plan: Plan) -> Iterable[Problem]:
        """Runs before anything else does; looks, but reads no pictures."""
        if not Path(self.path).is_dir():
            yield plan.problem("dataset", "path", f"there is no folder {self.path}", "name the folder of the clips")


@hookimpl
def register_datasets(register):
    register("new-plugin", options=NewPluginOptions, build="new_plugin.dataset:NewPlugin")
