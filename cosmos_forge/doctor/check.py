"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cosmos_forge.errors import Problem


@dataclass(frozen=True)
class Check:
    """fix: what to do about it, unless it is ok."""

    status: Literal["ok", "warn", "fail"]
    what: str
    fix: str = ""


def of_problem(problem: Problem) -> Check:
    """One that keeps a recipe from running."""
    place = f" ({problem.where.file}:{problem.where.line})" if problem.where else ""
    return Check("fail", problem.what + place, problem.fix)
