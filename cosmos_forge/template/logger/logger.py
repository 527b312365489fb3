"""A run's events as lines of text."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from cosmos_forge.events import Stamped
from cosmos_forge.types import LoggerContext
from new_plugin.plugin import NewPluginOptions


class NewPlugin:
    """See `cosmos_forge.kinds.Logger`. Lives in the process of `forge`, so it imports no torch."""

    def __init__(self, options: NewPluginOptions, context: LoggerContext) -> None:
        self.options = options
        self.path = context.folder / "new-plugin.txt"

    def on_event(self, stamped: Stamped) -> None:
        """Appends a line; a run that goes on after a crash goes on with its diary."""
        name = type(stamped.event).__name__
        if name in self.options.events:
            when = datetime.fromtimestamp(stamped.time).strftime("%Y-%m-%d %H:%M:%S")
            said = ", ".join(f"{key} {value}" for key, value in asdict(stamped.event).items())
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{when} {name}: {said}\n")

    def close(self) -> None:
        """Every line is written as it comes."""
