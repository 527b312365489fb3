"""Recipes are what the schema says, and an editor completes and checks them by it."""

import json
import queue
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tomli

from cosmos_forge.plugins import load_plugins
from cosmos_forge.schema import recipe_schema

jsonschema = pytest.importorskip("jsonschema", reason="pip install 'cosmos-forge[dev]'")

RECIPE = """\
#:schema ./recipe.schema.json
extends = "video2world-7b.toml"

[train]
steps = 10
lr = "much"

[method]
use = "lora"
rnak = 3

[sampler]
use = "euler"

[logger.csv]

"""


@pytest.fixture(scope="module")
def schema():
    return recipe_schema(load_plugins())


@pytest.fixture(scope="module")
def faults(schema):
    """What is wrong with a recipe, as paths."""
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    return lambda text: [list(error.path) for error in validator.iter_errors(tomli.loads(text))]


def test_shipped_recipes_are_valid(root, faults):
    shipped = sorted((root / "recipes").rglob("*.toml"))
    assert len(shipped) >= 11
    assert {path.name: found for path in shipped if (found := faults(path.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[train]\nlr = "much"', ["train", "lr"]),
        ("[train]\nstep = 1", ["train"]),
        ('[method]\nuse = "lora"\nrnak = 3', ["method"]),
        ('[method]\nuse = "lroa"', ["method"]),
        ('[logger.mine]\nuse = "nothing"', ["logger", "mine"]),
        ("[trian]\nsteps = 1", []),
    ],
)
def test_what_is_wrong_is_found(faults, text, place):
    assert faults(text) == [place]


class Editor:
    """Speaks with a language server as an editor does (JSON-RPC over pipes)."""

    def __init__(self, program: str, folder: Path) -> None:
        command = [program, "lsp", "--offline"]
        self.server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder
        )
        self.said: queue.Queue = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.asked = 0
        self.ask("initialize", processId=None, rootUri=folder.as_uri(), capabilities={})
        self.tell("initialized")

    def _listen(self) -> None:
        stream = self.server.stdout
        while header := stream.readline():
            if header.lower().startswith(b"content-length:"):
                while stream.readline().strip():
                    pass
                self.said.put(json.loads(stream.read(int(header.partition(b":")[2]))))

    def _write(self, **message) -> None:
        text = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.server.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(text), text))
        self.server.stdin.flush()

    def tell(self, method: str, **params) -> None:
        self._write(method=method, params=params)

    def ask(self, method: str, **params):
        self.asked += 1
        self._write(id=self.asked, method=method, params=params)
        while True:
            message = self.said.get(timeout=60)
            if message.get("id") == self.asked and "method" not in message:
                return message["result"]
            if "id" in message:  # it asks back, how it is configured and the like
                self._write(id=message["id"], result=None)


@pytest.fixture(scope="module")
def editor(schema, tmp_path_factory):
    """With RECIPE open: asks about it at a line (from 0) and column."""
    beside = Path(sys.executable).parent / "tombi"
    program = str(beside) if beside.exists() else shutil.which("tombi")
    if not program:
        pytest.skip("no TOML language server here: pip install tombi")
    folder = tmp_path_factory.mktemp("editor")
    (folder / "recipe.schema.json").write_text(json.dumps(schema))
    recipe = folder / "mine.toml"
    recipe.write_text(RECIPE)
    editor, document = Editor(program, folder), {"uri": recipe.as_uri()}
    editor.tell("textDocument/didOpen", textDocument={**document, "languageId": "toml", "version": 1, "text": RECIPE})

    def ask(what: str, line: int | None = None, column: int = 0):
        place = {} if line is None else {"position": {"line": line, "character": column}}
        return editor.ask(f"textDocument/{what}", textDocument=document, **place)

    yield ask
    editor.server.kill()
    editor.server.wait()


def test_an_editor_marks_mistakes(editor):
    found = {each["range"]["start"]["line"]: each["message"] for each in editor("diagnostic")["items"]}
    assert found.keys() == {5, 9} and "Float" in found[5] and "rnak" in found[9]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        (6, {"batch_size", "recompute", "optimizer_state"}),
        (10, {"rank", "alpha", "targets"}),
        (13, {"sigma_max", "sigma_min"}),
        (15, {'use = "csv"', "on"}),
    ],
)
def test_an_editor_offers_the_keys_of_the_component_in_use(editor, line, offered):
    answer = editor("completion", line)
    items = {each["label"]: each for each in (answer["items"] if isinstance(answer, dict) else answer)}
    assert offered <= items.keys()
    assert "steps" not in items or line == 13  # given already in [train], and no key of the others


def test_an_editor_tells_what_a_key_means(editor, schema):
    told = editor("hover", 4, 2)["contents"]["value"]
    assert schema["properties"]["train"]["properties"]["steps"]["description"] in told and "Minimum: `1`" in told
