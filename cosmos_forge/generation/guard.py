"""Guardrails around what `generate` makes: who is asked, what each did, and what follows from it.

A video that a guardrail refuses, or at which one fails, is not written; its JSON is, with every guardrail's state:
"on" (it looked and let the video pass), "off" (the recipe switches it off), "refused" or "failed". Those that come
after the one that stopped a video are not asked, and are not listed.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from cosmos_forge.devices import release
from cosmos_forge.errors import FAILED, REFUSED, ForgeError, Problem
from cosmos_forge.kinds import Guardrail
from cosmos_forge.tables import Table, kind_of
from cosmos_forge.types import Context, Refusal
from cosmos_forge.worker import component

if TYPE_CHECKING:
    from cosmos_forge.generation.jobs import Video
    from cosmos_forge.plan import Plan

STATES = ("off", "on", "refused", "failed")  # from good to bad; a video's is the worst of its guardrails'


class Stopped(Exception):
    """A guardrail refuses what it was asked about, or failed; the video's `Safety` says so."""


@dataclass(frozen=True)
class Verdict:
    """What one guardrail did about one video. category, reason: of a refusal or a failure. changed_frames: how many it
    replaced by others."""

    state: str
    category: str = ""
    reason: str = ""
    changed_frames: int = 0


@dataclass
class Safety:
    """What the guardrails did about one video, by their names."""

    verdicts: dict[str, Verdict] = field(default_factory=dict)

    @property
    def state(self) -> str:
        return max((verdict.state for verdict in self.verdicts.values()), key=STATES.index, default="off")

    @property
    def stopped(self) -> bool:
        return self.state in ("refused", "failed")

    def record(self) -> dict[str, Any]:
        """For the video's JSON; what there is nothing to say about is left out."""
        said = {name: asdict(verdict) for name, verdict in self.verdicts.items()}
        return {
            "state": self.state,
            "guardrails": {name: {key: each for key, each in facts.items() if each} for name, facts in said.items()},
        }

    def ask(self, name: str, question: Callable[[], Any]) -> Any:
        """The guardrail's answer, which is no refusal. Raises Stopped; whatever the question raises is a failure."""
        try:
            answer = question()
        except Exception as error:
            traceback.print_exc()
            first = error.problems[0].what if isinstance(error, ForgeError) else f"{type(error).__name__}: {error}"
            self.verdicts[name] = Verdict("failed", reason=first.split("\n")[0])
            raise Stopped from error
        if isinstance(answer, Refusal):
            self.verdicts[name] = Verdict("refused", answer.category, answer.reason)
            raise Stopped
        self.verdicts.setdefault(name, Verdict("on"))
        return answer


def check_prompts(plan: Plan, context: Context, videos: Sequence[Video]) -> dict[str, Safety]:
    """By the video's name, of a person's prompts and of those written in their place. The first process asks, with one
    guardrail at a time in memory, and tells the others."""
    off = [table for table in plan.tables.values() if kind_of(table.name) == "guardrail" and not table.on]
    safeties = {each.name: Safety({_name(table): Verdict("off") for table in off}) for each in videos}
    tables = _looking_at(plan, "prompt")
    for table in tables if context.world.rank == 0 else []:
        guard = Guard(plan, context, table)
        for each in videos:
            with suppress(Stopped):
                for text in dict.fromkeys((*each.asked, *each.prompts)) if not safeties[each.name].stopped else ():
                    safeties[each.name].ask(guard.name, partial(guard.check_prompt, text))
        del guard
        release(context)
    return dict(from_first(safeties, context)) if tables else safeties


class FrameChecks:
    """The guardrails that look at frames; each is built when it is first asked, and kept."""

    def __init__(self, plan: Plan, context: Context) -> None:
        self.guards = [Guard(plan, context, table) for table in _looking_at(plan, "frames")]

    def __call__(self, safety: Safety, frames_CTHW: Tensor) -> Tensor:
        """What is to be written of a video, or of the next piece of one. Raises Stopped."""
        for guard in self.guards:
            checked_CTHW = safety.ask(guard.name, partial(guard.check_frames, frames_CTHW))
            changed = int((checked_CTHW != frames_CTHW).any(dim=3).any(dim=2).any(dim=0).sum())
            verdict = safety.verdicts[guard.name]
            safety.verdicts[guard.name] = replace(verdict, changed_frames=verdict.changed_frames + changed)
            frames_CTHW = checked_CTHW
        return frames_CTHW

    def watch(self, safety: Safety, frames: Iterator[np.ndarray], at_once: int) -> Iterator[np.ndarray]:
        """A video's frames (HWC, uint8) one by one, looked at so many at a time. Raises Stopped on the way."""
        while piece := list(islice(frames, at_once)) if self.guards else []:
            piece_CTHW = torch.from_numpy(np.stack(piece)).permute(3, 0, 1, 2)
            yield from self(safety, piece_CTHW).permute(1, 2, 3, 0).numpy()
        yield from frames


@dataclass
class Guard:
    """A guardrail of the recipe, built when it is first asked."""

    plan: Plan
    context: Context
    table: Table

    @property
    def name(self) -> str:
        return _name(self.table)

    @cached_property
    def component(self) -> Guardrail:
        guardrail: Guardrail = component(self.plan, self.table.name, self.context)
        return guardrail

    def check_prompt(self, prompt: str) -> Refusal | None:
        return self.component.check_prompt(prompt)

    def check_frames(self, frames_CTHW: Tensor) -> Refusal | Tensor:
        """Raises TypeError where the guardrail gives neither a reason nor frames like those it got."""
        answer = self.component.check_frames(frames_CTHW)
        if isinstance(answer, Refusal):
            return answer
        if not isinstance(answer, Tensor) or (answer.dtype, answer.shape) != (frames_CTHW.dtype, frames_CTHW.shape):
            said = f"{answer.dtype} {tuple(answer.shape)}" if isinstance(answer, Tensor) else repr(answer)
            raise TypeError(f"it gave {said} for frames {tuple(frames_CTHW.shape)}")
        return answer


def conclude(records: Mapping[str, Mapping[str, Any]]) -> None:
    """The end of a stage, by the JSON of each video: raises ForgeError, with an exit code of its own, where guardrails
    have stopped some."""
    problems, failed = [], False
    for path, record in records.items():
        for name, verdict in record["safety"]["guardrails"].items():
            if verdict["state"] not in ("refused", "failed"):
                continue
            why = ": ".join(verdict[key] for key in ("category", "reason") if key in verdict)
            refused = verdict["state"] == "refused"
            failed = failed or not refused
            what = f"guardrail `{name}` {'refuses' if refused else 'failed, so there is no'} {path}: {why}"
            fix = "change the prompt or the input" if refused else "what the guardrail needs"
            problems.append(Problem(what, fix=f"{fix}; on = false in [guardrail.{name}] switches it off"))
    if problems:
        raise ForgeError(problems, code=FAILED if failed else REFUSED)


def from_first(value: Any, context: Context) -> Any:
    """The first process's value, in all."""
    if context.world.size == 1:
        return value
    told = [value]
    dist.broadcast_object_list(told, src=0)
    return told[0]


def _looking_at(plan: Plan, what: str) -> list[Table]:
    return [table for table in plan.each("guardrail") if what in cast(Any, table.options).looks_at]


def _name(table: Table) -> str:
    return table.name.partition(".")[2]
