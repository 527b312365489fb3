"""`forge new`: what it writes, and what it refuses to."""

import re

import pytest
import tomli

from cosmos_forge import ForgeError, new
from cosmos_forge.plugins import KINDS, load_plugins

PLACEHOLDERS = re.compile(r"new[-_]plugin|NewPlugin|\b(KIND|MODULE|SUMMARY|HEADER)\b|0\.0\.0")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_skeleton_in_the_author_s_words(kind, tmp_path):
    new.write_package(kind, "frost-giant", tmp_path, load_plugins([]))
    package = tmp_path / "frost-giant"
    assert {path.name for path in package.iterdir()} == {"pyproject.toml", "README.md", "frost_giant", "tests"}
    for path in package.rglob("*.*"):
        if path.is_file():
            assert not PLACEHOLDERS.search(path.read_text()), path
    project = tomli.loads((package / "pyproject.toml").read_text())["project"]
    assert project["name"] == "frost-giant"
    assert project["entry-points"]["cosmos_forge"] == {"frost-giant": "frost_giant.plugin"}
    plugin = (package / "frost_giant/plugin.py").read_text()
    assert f"def {KINDS[kind]}(register)" in plugin and f'build="frost_giant.{kind}:FrostGiant"' in plugin
    assert "class TestFrostGiant(" in (package / "tests/test_frost_giant.py").read_text()


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("smapler", "mine", "`smapler` is no kind of component\n  fix: did you mean `sampler`?"),
        ("sampler", "My Sampler", "`My Sampler` cannot be the name"),
        ("sampler", "../mine", "cannot be the name"),
        ("sampler", "class", "`class` is a word of Python itself and cannot be imported\n  fix: as in my-class"),
        ("sampler", "euler", "sampler `euler` is there already, offered by cosmos-forge"),
        ("sampler", "pydantic-core", "a Python package `pydantic_core` is installed here"),
        ("sampler", "taken", "taken is there already, and nothing is overwritten"),
    ],
)
def test_what_is_refused_writes_nothing(kind, name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    with pytest.raises(ForgeError) as raised:
        new.write_package(kind, name, tmp_path, load_plugins())
    assert said in str(raised.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["taken"]


def test_commands_to_type_next_are_quoted(tmp_path):
    said = new.write_package("sampler", "mine", tmp_path / "my plugins", load_plugins([]))
    assert f"pip install -e '{tmp_path}/my plugins/mine'" in said


def test_everything_wrong_is_told_at_once(tmp_path):
    with pytest.raises(ForgeError) as raised:
        new.write_package("smapler", "My", tmp_path, load_plugins([]))
    assert len(raised.value.problems) == 2


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ForgeError, match="cannot write to"):
        new.write_package("sampler", "mine", tmp_path / "file", load_plugins([]))
