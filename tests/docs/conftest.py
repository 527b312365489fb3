"""What the documentation says, taken apart."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")), *sorted(ROOT.glob("plugins/**/README.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block. language: what stands behind the fence. excuse: the comment right above, if there is one."""

    page: Path
    line: int
    language: str
    text: str
    excuse: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks() -> list[Block]:
    """All fenced blocks of all pages, in the order of the pages."""
    found = []
    pattern = re.compile(r"(?:<!--\s*([^>]*?)\s*-->\n+)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start(2)) + 1
            found.append(Block(page, line, match[2], match[3], match[1] or ""))
    return found


def commands(block: Block) -> list[str]:
    """The commands of a block, comments and prompts cut off. In a console block only what follows a `$` is one."""
    lines = re.sub(r"\\\n\s*", "", block.text).splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    bare = [re.sub(r"(^|\s)#\s.*", "", line).strip() for line in lines]
    return [line for line in bare if line]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def pages() -> list[Path]:
    return PAGES


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`command`: every command of every shell block that has no excuse. `block`: every block of the test's language."""
    if "command" in metafunc.fixturenames:
        shell = [block for block in blocks() if block.language in ("sh", "bash", "console")]
        shell = [block for block in shell if not block.excuse.startswith("not run: ")]
        cases = [(block, each) for block in shell for each in commands(block)]
        metafunc.parametrize("command", [each for _, each in cases], ids=[f"{b.place} {each}" for b, each in cases])
    if "block" in metafunc.fixturenames:
        language = metafunc.module.LANGUAGE
        cases = [block for block in blocks() if block.language == language]
        metafunc.parametrize("block", cases, ids=[block.place for block in cases])
