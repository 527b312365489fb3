"""What went wrong, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# Exit codes. FAILED: a stage broke. WRONG: recipe or machine is not right. REFUSED: by a guardrail. NO_SPACE: of one
# worker, whose disk is too full for words.
DONE, FAILED, WRONG, REFUSED, NO_SPACE, INTERRUPTED = 0, 1, 2, 3, 28, 130


@dataclass(frozen=True)
class Where:
    """A place in a recipe (or another text file): 1-based line and its text."""

    file: str
    line: int
    text: str = ""


@dataclass(frozen=True)
class Problem:
    """One thing that a person can mend.

    what: the fault in one sentence, naming the table and key. where: the place, if it has one.
    fix: what to do about it.
    """

    what: str
    where: Where | None = None
    fix: str = ""

    def lines(self) -> list[str]:
        """The problem as plain text, in the manner of rustc."""
        lines = [f"error: {self.what}"]
        if self.where:
            lines.append(f"  --> {self.where.file}:{self.where.line}")
            if self.where.text:
                lines.append(f" {self.where.line} | {self.where.text}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return lines


class ForgeError(Exception):
    """A person's mistake or a machine that is not right: shown as text, never as a traceback.

    problems: all that were found, in the order of the recipe. code: the exit code to end with.
    """

    def __init__(self, problems: Problem | str | Iterable[Problem], fix: str = "", code: int = WRONG) -> None:
        self.code = code
        if isinstance(problems, str):
            problems = Problem(problems, fix=fix)
        if isinstance(problems, Problem):
            problems = [problems]
        self.problems = list(problems)
        super().__init__("\n".join(line for problem in self.problems for line in problem.lines()))


def show_path(path: Path | str) -> str:
    """`path` relative to the working directory where that is shorter."""
    path = Path(path)
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
