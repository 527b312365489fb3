"""From `forge new` to an installed package that a recipe uses, and away again without a trace."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from cosmos_forge import new

ROOT = Path(__file__).parents[2]
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
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    pip("wheel", *offline, "--wheel-dir", "wheels", ROOT, *packages, folder=folder)
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
    from PIL import Image

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
def test_the_contract_of_every_kind_holds_as_written(workshop, tmp_path):
    wheels = [path for path in (workshop / "wheels").glob("*.whl") if path.name.startswith("my_")]
    pip("install", "--no-deps", "--no-index", "--no-compile", "--target", "site", *wheels, folder=tmp_path)
    tests = [workshop / f"my-{kind}" / "tests" for kind in new.kinds()]
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    said = call(*command, "--rootdir", workshop, *tests, folder=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert " passed" in said and "failed" not in said
