"""The documentation as a site: it builds, links lead somewhere, it has every hook, option, command and recipe."""

import html
import os
import re
import subprocess
import sys

import pytest

from cosmos_forge import hookspecs
from cosmos_forge.cli import app
from cosmos_forge.plugins import KINDS, load_plugins
from cosmos_forge.stages import STAGES
from cosmos_forge.stages.options import RunOptions

pytest.importorskip("material", reason="pip install 'cosmos-forge[docs]'")


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    """The text of a page, by its path; as a reader sees it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

    def read(page: str) -> str:
        text = (folder / f"{page}.html").read_text(encoding="utf-8")
        return " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())

    read.folder = folder
    return read


def words(text: str) -> str:
    """As a page shows it."""
    return " ".join(text.replace("`", "").split())


def test_every_hook_has_a_page(site):
    for name in vars(hookspecs):
        if name.startswith("register_"):
            page = site(f"hooks/{name.removeprefix('register_')}")
            assert f"def {name}(register" in page
            if name in KINDS.values():
                assert "Contract: testing." in page


def test_every_option_is_told_with_its_meaning(site):
    tables = [("reference/run", RunOptions), *(("reference/run", stage.options) for stage in STAGES.values())]
    tables += [(f"reference/{each.kind}", each.options) for each in load_plugins().components]
    pages = {page: site(page) for page, _ in tables}
    for page, options in tables:
        assert words(options.summary()) in pages[page], options
        for name, field in options.model_fields.items():
            assert f"{name} " in pages[page] and words(field.description) in pages[page], f"{page}: {name}"


def test_every_command_is_told(site):
    page = site("commands")
    names = [each.name or each.callback.__name__ for each in app.registered_commands]
    for name in [*names, *(each.name for each in load_plugins().commands)]:
        assert f"Usage: forge {name} " in page, name


def test_every_recipe_is_shown(site, root):
    page = site("recipes")
    shipped = sorted((root / "recipes").glob("*.toml"))
    assert len(shipped) >= 11
    for recipe in shipped:
        assert words(recipe.read_text(encoding="utf-8")) in page.replace("`", ""), recipe.name


def test_nothing_comes_from_elsewhere(site):
    """Pages open without a network: scripts, styles and fonts lie beside them."""
    for page in site.folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert (
            re.findall(r"<script[^>]+src=\S*//[^\s>]+|<link[^>]+stylesheet[^>]+//[^>]+|<img[^>]+src=\S*//[^>]+", text)
            == []
        ), page
