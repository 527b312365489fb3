"""How processes share out videos: each makes its own, or several make one together. What decides imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cosmos_forge.errors import ForgeError, Problem
from cosmos_forge.events import Note
from cosmos_forge.generation.inputs import find_wishes

if TYPE_CHECKING:
    from cosmos_forge.kinds import Parallelism, Team
    from cosmos_forge.plan import Plan
    from cosmos_forge.types import Context

Item = TypeVar("Item")


@dataclass(frozen=True)
class Split:
    """Of one video among processes: guidance's evaluations in `branches` parts, tokens within each in `context`."""

    branches: int = 1
    context: int = 1

    @property
    def processes(self) -> int:
        return self.branches * self.context

    def __str__(self) -> str:
        """How it is done, in words."""
        parts = ["the two evaluations of guidance"] if self.branches == 2 else []
        parts += [f"tokens in {self.context} parts"] if self.context > 1 else []
        return " x ".join(parts) or "each process makes videos of its own"


def split(processes: int, guided: bool, heads: int | None) -> Split | None:
    """The quickest way for that many processes; None where there is none. heads: of the network's self-attentions, to
    be shared out evenly; None for a network that cannot share tokens."""
    branches = 2 if guided and processes % 2 == 0 else 1
    context = processes // branches
    return Split(branches, context) if context == 1 or (heads and heads % context == 0) else None


def choose(processes: int, videos: int, guided: bool, heads: int | None) -> Split:
    """What `auto` does: as many processes join for a video as each of the videos can have."""
    most = max(1, processes // max(1, videos))
    return next(each for size in range(most, 0, -1) if (each := split(size, guided, heads)))


def count_videos(plan: Plan) -> int | None:
    """How many are asked for; None where that depends on the clips that are held out."""
    return len(find_wishes(plan)) if plan.generate.input else None


def planned(plan: Plan, videos: int | None) -> Split:
    """As the recipe says, for that many videos; for None, if there are as many as processes."""
    guided, heads, size = plan.generate.guidance > 0, _heads(plan), plan.generate.processes_per_video
    asked = split(size, guided, heads) if size else None
    return asked or choose(plan.processes, plan.processes if videos is None else videos, guided, heads)


def explained(plan: Plan, videos: int | None) -> str:
    """What `planned` comes to and why, in words; None where it is not known yet how many videos there are."""
    if videos is None and not plan.generate.processes_per_video:
        return "each video by one process, or by several where there are fewer videos than processes"
    found = planned(plan, videos)
    if found.processes == 1:
        return str(found)
    why = "" if plan.generate.processes_per_video else f", for there are fewer videos ({videos}) than processes"
    return f"{found.processes} of {plan.processes} processes make a video together{why}: {found}"


def check(plan: Plan, stages: Sequence[str]) -> Iterator[Problem]:
    """Whether as many processes as the recipe asks for can make a video together."""
    if "generate" not in stages or not {"generate", "model", "parallelism"} <= plan.tables.keys():
        return
    size, guided, heads = plan.generate.processes_per_video or 1, plan.generate.guidance > 0, _heads(plan)
    try:
        count = plan.processes
    except (ValueError, ForgeError):
        return  # reported by the plan itself
    if size > count:
        what = f"processes_per_video = {size}, but there {'are' if count > 1 else 'is'} {count}"
        yield plan.problem("generate", "processes_per_video", what, "[parallelism] says how many there are")
    elif split(size, guided, heads) is None:
        what = (
            f"processes_per_video = {size}: that many cannot share the model's {heads or 'undivided'} attention heads"
        )
        fits = ", ".join(str(each) for each in range(1, count + 1) if split(each, guided, heads))
        yield plan.problem("generate", "processes_per_video", what, f"{fits} can")


def _heads(plan: Plan) -> int | None:
    return getattr(plan.options("model"), "heads", None)


@dataclass(frozen=True)
class Share:
    """A process's part. It is in team `number` of `teams`, which makes every so many-th video; the first process of a
    team, which `leads`, reads and writes. team: None where a process is one by itself, or is left over."""

    number: int = 0
    teams: int = 1
    leads: bool = True
    split: Split = Split()
    team: Team | None = None

    def mine(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those of all videos that this process's team makes."""
        return items[self.number :: self.teams] if self.number < self.teams else []


def share_videos(plan: Plan, context: Context, parallelism: Parallelism, videos: int) -> Share:
    """Forms teams for that many videos, and says so; called by all processes. Raises ForgeError where it cannot be."""
    found, world = planned(plan, videos), context.world
    if found.processes > 1 and not hasattr(parallelism, "team"):
        what = f"parallelism `{plan.use('parallelism')}` does not let several processes make one video"
        if plan.generate.processes_per_video:
            raise ForgeError(plan.problem("generate", "processes_per_video", what, "processes_per_video = 1"))
        context.emit(Note(f"{what}; {world.size - videos} have nothing to do"))
        found = Split()
    elif world.size > 1:
        context.emit(Note(explained(plan, videos)))
    number, place = divmod(world.rank, found.processes)
    team = parallelism.team(found.processes, found.branches) if found.processes > 1 else None
    return Share(number, world.size // found.processes, place == 0, found, team)
