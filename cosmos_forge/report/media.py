"""Pictures and videos of a page: within it as far as its size allows, else as links to the files beside it."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

EMBEDDED_BYTES = 32 << 20  # of all files within a page; a third more as text
_TYPES = {".mp4": "video/mp4", ".png": "image/png", ".jpg": "image/jpeg"}


@dataclass
class Media:
    """page: the file that is written. embedded, linked: the files that went either way; of the first, their bytes."""

    page: Path
    limit: int
    embedded: dict[Path, int] = field(default_factory=dict)
    linked: list[Path] = field(default_factory=list)

    def url(self, path: Path) -> str:
        """Of the file: its content, as long as there is room; else its path, relative to the page."""
        size = path.stat().st_size
        if path not in self.embedded:
            if sum(self.embedded.values()) + size > self.limit:
                self.linked.append(path)
                return self.link(path)
            self.embedded[path] = size
        return f"data:{_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"

    def link(self, path: Path) -> str:
        """Its path, relative to the page."""
        return quote(os.path.relpath(path.resolve(), self.page.resolve().parent))

    def told(self) -> str:
        """What a reader should know who takes the page elsewhere."""
        size = f"{sum(self.embedded.values()) / 2**20:.3g} MiB"
        if not self.linked:
            return f"This page is complete in itself: {len(self.embedded)} pictures and videos ({size}) are within it."
        return (
            f"{len(self.embedded)} pictures and videos ({size}) are within this page; {len(self.linked)} more, over "
            f"{self.limit >> 20} MiB, lie beside it and are only shown while they do."
        )
