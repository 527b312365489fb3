"""The commands: what they print, how they end, and that they stay light."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tomli

import cosmos_forge
from cosmos_forge import cli
from cosmos_forge.planning import make_plan
from cosmos_forge.plugins import Command, load_plugins
from cosmos_forge.recipe import read_recipe
from cosmos_forge.schema import recipe_schema


@pytest.fixture
def forge(workplace, plugins_and_a_broken_one, monkeypatch, capsys):
    """Runs `forge ...` on the plugins of these tests; returns (exit code, stdout, stderr)."""
    monkeypatch.setattr("cosmos_forge.plugins.load_plugins", lambda: plugins_and_a_broken_one)
    monkeypatch.setattr("cosmos_forge.doctor.load_plugins", lambda: plugins_and_a_broken_one)

    def forge(*arguments):
        monkeypatch.setattr(sys, "argv", ["forge", *arguments])
        with pytest.raises(SystemExit) as ending:
            cli.main()
        out, err = capsys.readouterr()
        return ending.value.code, out, err

    return forge


@pytest.fixture
def started(monkeypatch):
    """What would have been run."""
    calls = []

    def run_plan(plan, stages=None, accept_changes=False):
        calls.append((plan, stages, accept_changes))
        return 1 if plan.name == "failing" else 0

    monkeypatch.setattr("cosmos_forge.launch.run_plan", run_plan)
    return calls


def test_run_and_stages_start_the_plan(forge, started, workplace):
    assert forge("run", "r.toml", "train.steps=7", "--name", "kitchen", "--runs", "elsewhere", "--continue")[0] == 0
    assert forge("export", "r.toml")[0] == 0
    assert forge("run", "r.toml", "--name", "failing")[0] == 1
    (run, stages, changes), (export, export_stages, no_changes), _ = started
    assert (run.folder, run.train.steps, stages, changes) == (Path("elsewhere/kitchen"), 7, None, True)
    assert (export.name, export_stages, no_changes) == ("r", ("export",), False)
    assert len(export.stages) == 5


def test_problems_go_to_stderr_in_the_houses_format(forge, started, workplace):
    text = (workplace / "r.toml").read_text().replace("rank = 4", "rank = 0").replace("lr = 1e-4", "lr = 0")
    (workplace / "r.toml").write_text(text)
    for command in ("run", "explain", "train"):
        code, out, err = forge(command, "r.toml", "seed=-1")
        assert (code, out) == (2, "")
        assert err == (
            "error: [method] rank must be at least 1, got 0\n"
            "  --> r.toml:18\n"
            " 18 | rank = 0\n"
            "  fix: rank of the adapters; 4 to 64 is usual; `forge plugins tiny-method` lists all keys\n"
            "\n"
            "error: [train] lr = 0 trains nothing\n"
            "  --> r.toml:31\n"
            " 31 | lr = 0\n"
            "  fix: 1e-4 is usual for LoRA, 5e-5 for full\n"
            "\n"
            "error: seed must be at least 0, got -1\n"
            "  --> command line:1\n"
            " 1 | seed=-1\n"
            "  fix: decides all randomness of data order, noise and fresh weights\n"
        )
    assert started == []


def test_wrong_toml_ends_with_code_2_and_no_traceback(workplace):
    (workplace / "r.toml").write_text("[train]\nlr = 1e-4 5\n")
    done = subprocess.run(
        [sys.executable, "-m", "cosmos_forge", "run", "r.toml"], capture_output=True, text=True, cwd=workplace
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: not valid TOML: expected newline") and "Traceback" not in done.stderr
    assert "  --> r.toml:2\n 2 | lr = 1e-4 5\n" in done.stderr


def test_a_tracebacks_place_is_behind_a_flag(forge, monkeypatch, workplace):
    def crash(*arguments):
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("cosmos_forge.planning.make_plan", crash)
    code, out, err = forge("explain", "r.toml")
    assert (code, out) == (1, "")
    assert err.startswith("error: ZeroDivisionError: of all things\n") and "--traceback" in err
    assert len(err.splitlines()) == 2
    monkeypatch.setattr(sys, "argv", ["forge", "explain", "r.toml", "--traceback"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_forge_alone_says_what_to_do_first(forge, monkeypatch, tmp_path):
    recipe = tmp_path / "quickstart.toml"
    recipe.write_text("# Two minutes on a laptop.\n")
    monkeypatch.setattr("cosmos_forge.catalogue.shipped_recipes", lambda: {"a.toml": recipe, "quickstart.toml": recipe})
    code, out, err = forge()
    assert (code, err) == (0, "")
    assert "forge run quickstart.toml" in out and "Two minutes on a laptop." in out


def test_version_and_help(forge):
    assert forge("--version")[1] == f"{cosmos_forge.__version__}\n"
    code, out, _ = forge("--help")
    stages = ["fetch", "prepare", "train", "export", "generate"]
    commands = ["run", *stages, "explain", "plugins", "data", "doctor", "watch", "report", "new"]
    assert code == 0 and re.findall(r"^  (\w+)  ", out.partition("Commands:")[2], re.MULTILINE) == commands
    assert "..." not in out.partition("Commands:")[2]
    assert forge("run", "--nonsense", "r.toml")[0] == 2


@pytest.fixture
def commands(plugins_and_a_broken_one, monkeypatch):
    """Commands of a plugin: one that works, one whose module does not import, one named as one of ours."""

    def greet(name: str, loudly: bool = False) -> None:
        """Greet somebody."""
        print(name.upper() if loudly else name)

    monkeypatch.setitem(sys.modules, "a_plugin", SimpleNamespace(greet=greet))
    runs = {"greet": "a_plugin:greet", "gone": "no_such_module:run", "watch": "a_plugin:greet"}
    offered = [Command(name, f"Does {name}.", run, "p", "a-package", "1.2") for name, run in runs.items()]
    monkeypatch.setattr(plugins_and_a_broken_one, "commands", offered)


def test_commands_of_plugins(forge, commands):
    assert forge("greet", "you", "--loudly") == (0, "YOU\n", "")
    assert forge("greet")[0] == 2
    code, out, _ = forge("--help")
    assert code == 0 and "Does greet." in out and "Does gone." in out and "Does watch." not in out
    assert "Greet somebody." in forge("greet", "--help")[1]
    code, _, err = forge("gone")
    assert code == 2 and "command `gone` of p (a-package) does not load: No module named 'no_such_module'" in err


def test_explain_prints_a_recipe_that_makes_the_same_plan(forge, plugins, workplace):
    code, out, err = forge("explain", "r.toml", "method.rank=2", "train.batch_size=6", "train.micro_batch_size=2")
    assert (code, err) == (0, "")
    assert "rank = 2  # command line" in out and 'use = "tiny-model"  # r.toml:4' in out
    assert "# latents     16 x 3 x 8 x 12 (channels x time x height x width) of clips of 17 x 64 x 96" in out
    assert "# batch       6 clips a step: 2 at once x 3 accumulated x 1 processes; 600 in all" in out
    (workplace / "again.toml").write_text(out)
    plan = make_plan(read_recipe("again.toml"), plugins)
    assert plan.values("method")["rank"] == 2 and plan.train.micro_batch_size == 2
    assert tomli.loads(out) == tomli.loads(plan.dumps())


def test_explain_as_json(forge, workplace, monkeypatch):
    monkeypatch.setattr("cosmos_forge.machine.free_gigabytes", lambda folder: 1000.0)
    code, out, _ = forge("explain", "r.toml", "model.weights=published", "--json")
    told = json.loads(out)
    assert code == 0 and told["processes"] == 1 and told["latents"]["clips"]["shape"] == [16, 3, 8, 12]
    assert told["tables"]["train"]["lr"] == {"value": 1e-4, "origin": "r.toml:31"}
    assert told["tables"]["model"]["weights"] == {"value": "published", "origin": "command line"}
    assert told["tables"]["method"]["mood"] == {"value": "calm", "origin": "default"}
    (download,) = told["downloads"]
    assert (download["repo"], download["gigabytes"], download["here"]) == ("someone/weights", 14.5, False)


def test_plugins_lists_components_and_the_broken_last(forge):
    code, out, _ = forge("plugins")
    lines = out.splitlines()
    assert code == 0 and lines[0].split() == ["KIND", "NAME", "PACKAGE", "VERSION", "SUMMARY"]
    assert lines[1].split(maxsplit=4) == ["model", "tiny-model", "tiny-package", "1.0", "A model."]
    assert "broken:" in lines and lines[-1].split(maxsplit=3) == [
        *["sad", "sad-package", "0.3"],
        "ImportError: no module named missing_dependency",
    ]


def test_plugins_lists_the_options_of_one(forge):
    code, out, _ = forge("plugins", "tiny-method")
    assert code == 0 and out.splitlines()[:4] == [
        "[method]",
        'use = "tiny-method"  # tiny-package 1.0',
        "",
        "A method.",
    ]
    assert re.search(r"rank +int >= 1, <= 512 +=  ?8 +rank of the adapters", out)
    assert re.search(r"steps +int >= 1 +required +optimizer steps", forge("plugins", "train")[1])
    assert re.search(r"merge +true \| false +=  ?true", forge("plugins", "export")[1])
    code, _, err = forge("plugins", "tiny-mehtod")
    assert code == 2 and "did you mean `tiny-method`?" in err


def test_plugins_gives_one_list_at_a_time(forge):
    for arguments in (["tiny-method", "--json"], ["--json", "--schema"]):
        code, out, err = forge("plugins", *arguments)
        assert (code, out) == (2, "") and "choose one of them" in err


def test_plugins_as_json(forge):
    told = json.loads(forge("plugins", "--json")[1])
    assert [(each["name"], each["version"]) for each in told] == [("tiny", "1.0"), ("sad", "0.3")]
    assert "register_methods" in told[0]["hooks"] and "missing_dependency" in told[1]["error"]
    assert {"kind": "model", "name": "tiny-model", "summary": "A model.", "build": "tiny_plugin:build"} in told[0][
        "components"
    ]


def test_the_schema_knows_components_and_stages(forge, workplace):
    schema = json.loads(forge("plugins", "--schema")[1])
    assert schema["$schema"].endswith("2020-12/schema")
    first, second, inherited = schema["properties"]["method"]["oneOf"]
    assert first["properties"]["use"] == {"const": "tiny-method"} and first["required"] == ["use"]
    assert first["properties"]["rank"]["maximum"] == 512 and not first["additionalProperties"]
    assert second["properties"]["use"] == {"const": "unlucky-method"}
    assert set(inherited["properties"]) == {"rank", "mood"}
    assert schema["properties"]["train"]["properties"]["lr"]["minimum"] == 0
    # Every key of a real recipe is known.
    for table, entries in read_recipe("r.toml").values.items():
        if not table:
            assert set(entries) <= set(schema["properties"])
            continue
        known = schema["properties"][table]
        options = next(
            (
                each
                for each in known.get("oneOf", [])
                if each["properties"].get("use", {}).get("const") == entries.get("use")
            ),
            known,
        )
        assert set(entries) <= set(options["properties"])


def test_references_of_the_schema_of_all_installed_plugins_lead_somewhere():
    schema = recipe_schema(load_plugins())
    references = re.findall(r'"\$ref": "#/\$defs/([^"]+)"', json.dumps(schema))
    assert set(references) <= set(schema["$defs"])


def test_watch_takes_a_name_or_a_folder(forge, workplace, monkeypatch):
    watched = []
    monkeypatch.setattr("cosmos_forge.view.watch", lambda folder: watched.append(folder) or 0)
    (workplace / "runs" / "kitchen").mkdir(parents=True)
    (workplace / "elsewhere" / "attic").mkdir(parents=True)
    assert forge("watch", "kitchen")[0] == forge("watch", "elsewhere/attic")[0] == forge("watch", "none")[0] == 0
    assert watched == [Path("runs/kitchen"), Path("elsewhere/attic"), Path("runs/none")]


HEAVY = {"torch", "transformers", "numpy", "peft", "diffusers", "huggingface_hub", "rich", "av", "decord"}
LIGHT = """
import json, sys
sys.argv = ["forge", *{arguments!r}]
from cosmos_forge.cli import main
try:
    main()
finally:
    print("\\n" + json.dumps(sorted({heavy!r} & sys.modules.keys())), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        [],
        ["explain", "quickstart.toml"],
        ["explain", "r.toml"],
        ["explain", "video2world-7b-lora.toml", "--gpu", "a10:2"],
        ["plugins"],
        ["plugins", "--schema"],
    ],
    ids=" ".join,
)
def test_commands_are_light(arguments, workplace):
    """With every installed plugin nothing heavy is imported; `benchmarks/commands.py` takes the time."""
    script = LIGHT.format(arguments=arguments, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=workplace, env=os.environ)
    assert "Traceback" not in done.stderr
    assert json.loads(done.stderr.splitlines()[-1]) == []


def core_files() -> list[Path]:
    return sorted(Path(cosmos_forge.__file__).parent.rglob("*.py"))


def without_docstrings(tree: ast.AST):
    """All nodes except docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    return (node for node in ast.walk(tree) if id(node) not in docstrings)


def test_core_names_no_plugin():
    """No component, plugin or package of a plugin is named by the core's code."""
    installed = load_plugins()
    names = {each.name for each in installed.components} | {each.name for each in installed.loaded}
    packages = {each.build.partition(":")[0].partition(".")[0] for each in installed.components}
    assert len(names) > 10 and packages
    named = []
    for path in core_files():
        for node in without_docstrings(ast.parse(path.read_text())):
            words = []
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words = [node.value, node.value.partition(".")[0]]
            elif isinstance(node, ast.Import):
                words = [alias.name.partition(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                words = [node.module.partition(".")[0]]
            named += [f"{path.name}:{node.lineno} {word}" for word in words if word in names | packages]
    assert named == []


def test_typer_and_rich_stay_in_their_files():
    for library, places in {
        "typer": {"cli.py", "commands.py"},
        "rich": {"view", "survey/show.py"},
    }.items():
        for path in core_files():
            imports = re.search(rf"^\s*(from|import) {library}\b", path.read_text(), re.MULTILINE)
            inside = path.relative_to(Path(cosmos_forge.__file__).parent).as_posix()
            assert not imports or any(inside == place or inside.startswith(f"{place}/") for place in places), inside
