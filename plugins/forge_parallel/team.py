"""Processes that make one video together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
from torch import Tensor, distributed

from forge_parallel.sequence import SharedSequence


class Team:
    """`kinds.Team` of the processes in `group`, whose parts are neighbours in rank. part: the processes that evaluate
    the same branch as this one does."""

    def __init__(self, group: distributed.ProcessGroup, part: distributed.ProcessGroup) -> None:
        self.group = group
        self.sequence = SharedSequence(part) if part.size() > 1 else None
        self.each, self.mine = part.size(), group.rank() // part.size()

    def evaluate(self, *branches: Callable[[], Tensor]) -> Sequence[Tensor]:
        """See `kinds.Evaluate`. Each part's first process tells the whole team what the part found."""
        mine = branches[self.mine]().contiguous()
        return [
            self._broadcast(mine if index == self.mine else torch.empty_like(mine), index * self.each)
            for index in range(len(branches))
        ]

    def tell(self, x: Tensor) -> Tensor:
        """See `kinds.Team`."""
        return self._broadcast(x.contiguous(), 0)

    def _broadcast(self, x: Tensor, source: int) -> Tensor:
        """x of the process `source` of the team, in place."""
        distributed.broadcast(x, group=self.group, group_src=source)
        return x


def form_team(size: int, branches: int, patience: timedelta) -> Team | None:
    """See `kinds.Parallelism.team`."""
    count = distributed.get_world_size() // size
    each = size // branches
    teams = [list(range(team * size, (team + 1) * size)) for team in range(count)]
    parts = [team[start : start + each] for team in teams for start in range(0, size, each)]
    group, _ = distributed.new_subgroups_by_enumeration(teams, timeout=patience)
    part, _ = distributed.new_subgroups_by_enumeration(parts, timeout=patience)
    return Team(group, part) if group else None
