"""From `forge new` to an installed package that a recipe uses, and away again without a trace."""

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from PIL import Image

from cosmos_forge import new

ROOT = Path(__file__).parents[2]
OFFLINE = ("--no-deps", "--no-index", "--no-build-isolation")
QUIET = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist")
RECIPE = """\
stages = ["generate"]
precision = "fp32"
device = "cpu"

[latent_tokenizer]
use = "toy"

[text_encoder]
use = "toy"

[model]
use = "cosmos1-video2world"
variant = "tiny"

[parallelism]
use = "single"

[sampler]
use = "my-sampler"
steps = 2

[generate]
input = "start.png"
prompt = "a grey wall"
given_frames = 1
guidance = 0.0
num_frames = 9
height = 32
width = 32
"""


def call(*command, folder, code=0, **environment) -> str:
    """What a command says; it has to end with the exit code `code`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FORGE_GPUS": "0", **environment}
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def pip(*arguments, folder, python=sys.executable) -> str:
    quiet = ("--quiet", "--disable-pip-version-check")
    return call(sys.executable, "-m", "pip", "--python", python, *arguments, *quiet, folder=folder)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    """A folder with a package of every kind, `my-KIND`, and wheels of all and of the core, made offline."""
    folder = tmp_path_factory.mktemp("workshop")
    for kind in new.kinds():
        said = call(sys.executable, "-m", "cosmos_forge", "new", kind, f"my-{kind}", folder=folder)
        assert f"wrote my-{kind}" in said and f"pip install -e my-{kind}" in said
    packages = [folder / f"my-{kind}" for kind in new.kinds()]
    pip("wheel", *OFFLINE, "--wheel-dir", "wheels", ROOT, *packages, folder=folder)
    return folder


@pytest.fixture
def fresh(tmp_path) -> Path:
    """The folder of programs of a new environment that holds nothing of this project; all that the project depends on
    is that of the environment of this test."""
    venv.create(tmp_path / "environment", symlinks=True)
    shared = tmp_path / "shared"
    shared.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.suffix != ".pth" and not path.name.startswith(("cosmos_forge", "forge_")):
            (shared / path.name).symlink_to(path)
    (site,) = (tmp_path / "environment").glob("lib/*/site-packages")
    (site / "shared.pth").write_text(f"{shared}\n")
    return tmp_path / "environment" / "bin"


@pytest.mark.slow
def test_a_package_is_found_used_and_gone_without_a_trace(workshop, fresh, tmp_path):
    Image.new("RGB", (32, 32), "grey").save(tmp_path / "start.png")
    (tmp_path / "mine.toml").write_text(RECIPE)
    install = ("install", "--no-deps", "--no-index", "--no-compile", "--find-links", workshop / "wheels")
    pip(*install, "cosmos-forge", folder=tmp_path, python=fresh / "python")
    before = files(fresh.parent)

    pip(*install, "my-sampler", folder=tmp_path, python=fresh / "python")
    forge = fresh / "forge"
    listed = json.loads(call(forge, "plugins", "--json", folder=tmp_path))
    mine = next(plugin for plugin in listed if plugin["name"] == "my-sampler")
    assert (mine["package"], mine["hooks"]) == ("my-sampler", ["register_samplers"])
    assert "my-sampler" in call(forge, "plugins", folder=tmp_path)
    assert "= 12" in call(forge, "plugins", "my-sampler", folder=tmp_path)
    assert "my-sampler" in call(forge, "plugins", "--schema", folder=tmp_path)

    call(forge, "run", "mine.toml", "--name", "mine", folder=tmp_path)
    settings = json.loads((tmp_path / "runs/mine/videos/start.json").read_text())
    assert settings["sampler"] == {"use": "my-sampler", "steps": 2, "sigma_min": 0.002}
    assert (tmp_path / "runs/mine/videos/start.mp4").stat().st_size > 0

    pip("uninstall", "--yes", "my-sampler", folder=tmp_path, python=fresh / "python")
    assert "my-sampler" not in call(forge, "plugins", folder=tmp_path)
    assert "my-sampler" not in call(forge, "plugins", "--schema", folder=tmp_path)
    assert files(fresh.parent) == before


def files(folder: Path) -> set[str]:
    """All of a folder's, but for what Python keeps of modules that it has read."""
    return {str(path) for path in folder.rglob("*") if "__pycache__" not in str(path)}


@pytest.mark.slow
def test_the_tutorial_works_as_written(workshop, fresh, tmp_path):
    """Every file and command of docs/plugins.md, in order; its recipe is one that only generates, from a picture."""
    page = (ROOT / "docs/plugins.md").read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/quickstart.toml").write_text(RECIPE.replace("my-sampler", "euler"))
    Image.new("RGB", (32, 32), "grey").save(tmp_path / "start.png")
    pip(
        "install",
        *OFFLINE,
        "--find-links",
        workshop / "wheels",
        "cosmos-forge",
        folder=tmp_path,
        python=fresh / "python",
    )
    before, written = files(fresh.parent), 0
    for language, text in blocks:
        if path := re.match(r"# (plain/\S+)\n", text):
            (tmp_path / path[1]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path[1]).write_text(text)
            written += 1
        for line in text.splitlines() if language == "sh" else []:
            carry_out(shlex.split(line, comments=True), fresh, tmp_path)
    assert written == 4 and (tmp_path / "dist/forge_plain-0.1.0-py3-none-any.whl").exists()
    assert (tmp_path / "runs/plain/videos/start.mp4").exists()
    assert files(fresh.parent) == before


def carry_out(command, programs, folder):
    """A command of the tutorial, in the environment of these programs."""
    program, *arguments = command
    if program == "pip":
        verb, *rest = arguments
        offline = () if verb == "uninstall" else OFFLINE
        pip(verb, *offline, *rest, folder=folder, python=programs / "python")
    elif program == "pytest":
        said = call(programs / "python", "-m", "pytest", *QUIET, *arguments, folder=folder)
        assert " passed" in said
    elif program == "touch":
        (folder / arguments[0]).touch()
    else:
        assert program == "forge"
        call(programs / program, *arguments, folder=folder)


def test_what_the_tutorial_quotes_is_said(tmp_path):
    """The two mistakes it makes are told as it says."""
    page = (ROOT / "docs/plugins.md").read_text()
    files = dict(re.findall(r"^```python\n# plain/(\S+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    files["forge_plain/plain.py"] = files["forge_plain/plain.py"].replace("            if on_step:\n", "", 1)
    files["forge_plain/plain.py"] = files["forge_plain/plain.py"].replace("                on_step(step)\n", "", 1)
    options = 'steps: int = Field(35, ge=1, description="number of steps")'
    assert options in files["forge_plain/plugin.py"]
    files["forge_plain/plugin.py"] = files["forge_plain/plugin.py"].replace(options, "steps: int = 35")
    files["forge_plain-0.1.0.dist-info/entry_points.txt"] = "[cosmos_forge]\nplain = forge_plain.plugin\n"
    files["forge_plain-0.1.0.dist-info/METADATA"] = "Name: forge-plain\nVersion: 0.1.0\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    command = (sys.executable, "-m", "pytest", *QUIET, "tests", "-k", "reports_steps or explain_themselves")
    said = call(*command, folder=tmp_path, code=1, PYTHONPATH=str(tmp_path))
    quoted = re.findall(r"^AssertionError: (.*)$", page, re.MULTILINE)
    assert len(quoted) == 2
    for each in quoted:
        assert each in said


@pytest.mark.slow
def test_the_contract_of_every_kind_holds_as_written(workshop, tmp_path):
    wheels = [path for path in (workshop / "wheels").glob("*.whl") if path.name.startswith("my_")]
    pip("install", "--no-deps", "--no-index", "--no-compile", "--target", "site", *wheels, folder=tmp_path)
    tests = [workshop / f"my-{kind}" / "tests" for kind in new.kinds()]
    said = call(
        sys.executable,
        "-m",
        "pytest",
        *QUIET,
        "--rootdir",
        workshop,
        *tests,
        folder=tmp_path,
        PYTHONPATH=str(tmp_path / "site"),
    )
    assert " passed" in said and "failed" not in said
