"""The view in a terminal: a picture of the run that is painted over as it changes, with notes above it.

Only the terminal's own colours are used, and every state has a sign of its own, so it reads on light, on dark and
without colour.
"""

from __future__ import annotations

import time
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cosmos_forge.events import Note, RejectedClip, Stamped
from cosmos_forge.view.last_words import Closing, closing
from cosmos_forge.view.picture import Meter, Picture, StageLine, Training
from cosmos_forge.view.words import counted, duration, number, pace, sparkline, step_facts, time_left

_SIGNS = {
    "waiting": ("·", "dim"),
    "running": ("▸", "bold cyan"),
    "done": ("✓", "green"),
    "skipped": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "interrupted": ("‖", "yellow"),
}
_TONES = {"done": "green", "failed": "red", "interrupted": "yellow", "open": "yellow"}
_WIDEST = 100  # columns; what is longer is harder to read
_CELL = 20  # columns of one "name value"


class Terminal:
    """Paints on a console."""

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder = folder
        self.console = console
        self.live = Live(console=console, auto_refresh=False)
        self.live.start()

    def event(self, stamped: Stamped, picture: Picture) -> None:
        match stamped.event:
            case Note(text=text, warning=True):
                self._above("!", "bold yellow", text)
            case Note(text=text):
                self._above("i", "cyan", text)
            case RejectedClip(key=key, reason=reason):
                self._above("-", "yellow", f"left out {key}: {reason}")

    def pause(self, picture: Picture) -> None:
        self.live.update(paint(picture, self._width, time.time()), refresh=True)

    def end(self, picture: Picture) -> None:
        self.live.update(paint(picture, self._width, picture.time), refresh=True)
        self.live.stop()
        self.console.print()
        self.console.print(panel(closing(picture, self.folder), _TONES[picture.outcome], self._width))

    def close(self) -> None:
        self.live.stop()

    @property
    def _width(self) -> int:
        return min(self.console.width, _WIDEST)

    def _above(self, sign: str, style: str, text: str) -> None:
        line = Table.grid(padding=(0, 1))
        line.add_row(Text(sign, style), Text(text, overflow="fold"))
        self.console.print(line)


def paint(picture: Picture, width: int, now: float) -> Group:
    """The run at the time `now` (seconds since 1970), no wider than `width` columns."""
    head = Text.assemble(
        (picture.name, "bold"), "  ", duration(max(0.0, now - picture.started)), ("  " + picture.recipe, "dim")
    )
    room = max((len(name) for name in picture.stages), default=0)
    lines = [Text(), head, Text()]
    for stage in picture.stages.values():
        lines.append(_stage(stage, room, width, now))
        if stage.status == "running":
            lines += _work(stage, width, now)
    for line in lines:
        line.no_wrap = True
        line.rstrip()
        line.truncate(width, overflow="ellipsis")
    return Group(*lines)


def _stage(stage: StageLine, room: int, width: int, now: float) -> Text:
    sign, style = _SIGNS[stage.status]
    line = Text.assemble((sign, style), " ", (f"{stage.name:<{room}}", "bold" if stage.status == "running" else ""))
    if stage.status == "waiting":
        line.stylize("dim")
    elif stage.status == "skipped":
        line.append("  done before", "dim")
    else:
        line.append(f"  {duration(stage.elapsed(now)):<7}")
    if stage.status in ("failed", "interrupted"):
        line.append(f"  {stage.status}", style)
    if stage.status == "running":
        line.append(f"  {stage.processes} processes" if stage.processes > 1 else "", "dim")
        line.append(f"  from step {stage.resumed}" if stage.resumed is not None else "", "dim")
    elif stage.training and stage.training.curve:
        curve = stage.training.smoothed
        line.append("  smoothed loss ", "dim").append(f"{number(curve[-1])} ")
        line.append(sparkline(curve, min(20, width - line.cell_len)), "cyan")
    return line


def _work(stage: StageLine, width: int, now: float) -> list[Text]:
    """What the stage at work is about."""
    lines = []
    if stage.training and stage.training.latest:
        step, left = stage.training.latest, stage.training.left(now)
        lines.append(_bar(step.step / step.steps, f"step {step.step}/{step.steps}", time_left(left), width))
        lines += _training(stage.training, width)
    if stage.training and stage.training.judged:
        lines.append(_judged(stage.training, width))
    if stage.meter:
        lines.append(_meter(stage.meter, width, now))
    return lines


def _judged(training: Training, width: int) -> Text:
    """The loss on held-out clips over all judgements, what it was before training and where it was lowest."""
    last, best = training.judged[-1], training.best
    facts = [] if last.base_loss is None else [f"{number(last.base_loss)} before"]
    facts += [f"lowest at step {best.step}"] if best else []
    beside = ", ".join(facts)
    head = f"  held-out loss {number(last.loss):<7}  "
    curve = sparkline([each.loss for each in training.judged], max(0, min(20, width - len(head) - len(beside) - 2)))
    return Text.assemble((head[:16], "dim"), (head[16:], "bold"), (curve, "cyan"), "  ", (beside, "dim"))


def _meter(meter: Meter, width: int, now: float) -> Text:
    latest, room = meter.latest, width // 3
    share = latest.done / latest.total if latest.total else 0.0
    what = latest.what if len(latest.what) <= room else "…" + latest.what[1 - room :]
    beside = "  ".join(filter(None, (pace(meter), time_left(meter.left(now)))))
    return _bar(share, f"{what} {counted(latest)}", beside, width)


def _bar(share: float, what: str, beside: str, width: int) -> Text:
    """A bar as wide as what stands beside it allows, 40 columns at most. Half a column is the least it shows."""
    room = max(8, min(40, width - len(what) - len(beside) - 6))
    halves = round(min(1.0, max(0.0, share)) * room * 2)
    full = "━" * (halves // 2) + ("╸" if halves % 2 else "")
    return Text.assemble("  ", (full, "cyan"), ("─" * (room - len(full)), "dim"), "  ", what, "  ", (beside, "dim"))


def _training(training: Training, width: int) -> list[Text]:
    """The smoothed loss over all steps, and what the last report says."""
    step, curve = training.latest, training.smoothed
    if step is None:
        return []
    head = f"  smoothed loss {number(curve[-1]):<7}  "
    lines = [Text.assemble((head[:16], "dim"), (head[16:], "bold"), (sparkline(curve, width - len(head)), "cyan"))]
    facts = step_facts(step) + ([("saved step", str(training.saved))] if training.saved else [])
    columns = max(1, (width - 2) // _CELL)
    for start in range(0, len(facts), columns):
        line = Text("  ")
        for name, value in facts[start : start + columns]:
            line.append(f"{name} ", "dim").append(f"{value:<{_CELL - len(name) - 1}}")
        lines.append(line)
    return lines


def panel(last: Closing, tone: str, width: int) -> RenderableType:
    """The closing words. Without borders at the sides, so that paths and commands can be copied."""
    parts: list[RenderableType] = []
    if last.problems:
        parts.append(Text("\n").join(_problem(line) for line in last.problems))
    if last.words:
        parts.append(Text("\n".join(last.words)))
    if last.files:
        parts.append(_pairs(last.files, width - 4))
    if last.tries:
        parts.append(_pairs(last.tries, width - 4))
    spaced = [parts[0], *(Padding(part, (1, 0, 0, 0)) for part in parts[1:])] if parts else []
    title = Text(f" {last.title} ", f"bold {tone}")
    return Panel(
        Group(*spaced), box=box.HORIZONTALS, title=title, title_align="left", border_style=tone, width=width, padding=0
    )


def _problem(line: str) -> Text:
    """One line of a problem, as `Problem.lines` lays it out."""
    text = Text(line, overflow="fold")
    text.highlight_regex(r"^error:", "bold red")
    text.highlight_regex(r"^ *fix:", "bold green")
    return text


def _pairs(pairs: list[tuple[str, str]], width: int) -> RenderableType:
    """Names and what they stand for: side by side where that fits, else one below the other."""
    room = max(len(name) for name, _ in pairs)
    if room + 2 + max(len(value) for _, value in pairs) <= width:
        return Text("\n").join(Text.assemble((f"{name:<{room}}  ", "dim"), value) for name, value in pairs)
    stacked = [(Text(name, "dim"), Padding(Text(value, overflow="fold"), (0, 0, 0, 2))) for name, value in pairs]
    return Group(*(part for pair in stacked for part in pair))
