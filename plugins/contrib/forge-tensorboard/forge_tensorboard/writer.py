"""A run's events as TensorBoard's event files, by the tensorboard package alone: no torch, no TensorFlow."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from cosmos_forge.events import Artifact, Measured, Resumed, RunStarted, Stamped, Step, Validated
from cosmos_forge.types import LoggerContext
from forge_tensorboard.plugin import TensorBoardOptions


class TensorBoard:
    """See `cosmos_forge.kinds.Logger`. Each attempt at a run adds a file; steps that are done again replace those that
    were lost."""

    def __init__(self, options: TensorBoardOptions, context: LoggerContext) -> None:
        self.run, self.settings, self.step = context.folder, context.settings, 0
        folder = Path(options.folder).expanduser() / context.name if options.folder else context.folder / "tensorboard"
        self.file = EventFileWriter(str(folder))

    def on_event(self, stamped: Stamped) -> None:
        now = stamped.time
        match stamped.event:
            case RunStarted():
                self._write(now, _text("settings", self.settings))
            case Resumed(step=step):
                # TensorBoard forgets what it knows from this step on.
                restart = SessionLog(status=SessionLog.START)
                self.file.add_event(Event(wall_time=now, step=step + 1, session_log=restart))
                self.step = step
            case Step() as event:
                self.step = event.step
                numbers = asdict(event) | event.metrics
                self._numbers(now, "train", {name: numbers[name] for name in numbers.keys() - {"step", "steps"}})
            case Validated() as event:
                self.step = event.step
                levels = {
                    f"loss at sigma {sigma:.3g}": loss for sigma, loss in zip(event.sigmas, event.losses, strict=True)
                }
                self._numbers(now, "held out", {"loss": event.loss, **levels, **event.metrics})
                self._picture(now, "samples", event.sheet)
            case Measured(metrics=metrics):
                self._numbers(now, "generated", metrics)
            case Artifact(name="contact sheet", path=path):
                self._picture(now, "contact sheet", path)

    def close(self) -> None:
        """Writes what is still on its way."""
        self.file.close()

    def _numbers(self, now: float, group: str, numbers: Mapping[str, Any]) -> None:
        """One curve a number; what is no number, or is not known, has none."""
        values = [
            Summary.Value(tag=f"{group}/{name}", simple_value=float(number))
            for name, number in sorted(numbers.items())
            if isinstance(number, (int, float))
        ]
        self._write(now, *values)

    def _picture(self, now: float, tag: str, path: str) -> None:
        """A PNG of the run's, if there is one."""
        if path and (self.run / path).is_file():
            content = (self.run / path).read_bytes()
            width, height = struct.unpack(">II", content[16:24])  # of IHDR, which is first in each PNG
            picture = Summary.Image(encoded_image_string=content, width=width, height=height, colorspace=3)
            self._write(now, Summary.Value(tag=tag, image=picture))

    def _write(self, now: float, *values: Summary.Value) -> None:
        self.file.add_event(Event(wall_time=now, step=self.step, summary=Summary(value=values)))
        self.file.flush()


def _text(tag: str, settings: Mapping[str, Any]) -> Summary.Value:
    """All settings as text, which TensorBoard shows as Markdown: indented by four, it is code."""
    lines = json.dumps(settings, indent=2, default=str).splitlines()
    tensor = TensorProto(
        dtype=DT_STRING,
        string_val=["\n".join(f"    {line}" for line in lines).encode()],
        tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
    )
    shown_as = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    return Summary.Value(tag=tag, tensor=tensor, metadata=shown_as)
