"""What shells complete behind `forge`."""

import os
import shutil
import subprocess
import sys

import pytest

FORGE = f"{sys.executable} -m cosmos_forge"
BASH = """
forge() {{ {forge} "$@"; }}
export -f forge
source <(_FORGE_COMPLETE=source_bash forge)
env() {{ local -x "${{@:1:3}}"; "${{@:4}}"; }}  # forge is a function here
COMP_WORDS=({words})
COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
_forge_completion forge
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
CASES = {
    "forge rep": ["report"],
    "forge cli": ["clips"],  # of a plugin
    "forge run quick": ["quickstart-lora.toml", "quickstart.toml"],
    "forge doctor mine": ["mine.toml"],
    "forge run sub/": ["sub/theirs.toml"],
    "forge run ./m": ["./mine.toml"],
    "forge run sub/theirs.toml --na": ["--name"],
    "forge watch k": ["kitchen"],
    "forge report kitchen --runs elsewhere a": ["attic"],
    "forge plugins dpm": ["dpmpp-2m"],
    "forge explain quickstart.toml --gpu h200": ["h200", "h200-nvl"],
    "forge new latent": ["latent-tokenizer"],
    "forge run nothing-like": [],  # the shell's own files follow
}


@pytest.fixture
def place(tmp_path):
    for path in ("mine.toml", "sub/theirs.toml", "runs/kitchen/events.jsonl", "elsewhere/attic/events.jsonl"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    return tmp_path


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash on this machine")
@pytest.mark.parametrize("words", CASES)
def test_bash(words, place):
    script = BASH.format(forge=FORGE, words=words)
    done = subprocess.run(["bash", "-c", script], cwd=place, capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (CASES[words], "")


def test_zsh_is_told_names_or_to_complete_files(place):
    def told(words):
        asked = {"_FORGE_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": words}
        command = [sys.executable, "-m", "cosmos_forge"]
        return subprocess.run(command, cwd=place, env=os.environ | asked, capture_output=True, text=True).stdout.split()

    assert told("forge run quick") == ["_arguments", "'*:", ':(("quickstart-lora.toml"', '"quickstart.toml"))\'']
    assert told("forge run nothing-like") == ["_files"]
