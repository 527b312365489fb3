"""Reading recipes: places of keys, extends, overrides, and what is wrong with a file."""

from pathlib import Path

import pytest

from cosmos_forge.aliases import ALIASES
from cosmos_forge.errors import ForgeError, Where
from cosmos_forge.recipe import read_recipe, shipped_recipes, toml_value
from cosmos_forge.stages.options import GenerateOptions

TRICKY = """\
# a comment with [brackets] and = signs
seed = 3
stages = [  # comment
    "fetch",
    # "train",

    "train",
]
model.use = "dotted"

[ dataset ]  # comment
use = 'video'
text = \"\"\"
[not a table]
key = "not a key"
\"\"\"
inline = { a = 1, b = [1,
  2] }
"quoted key" = 1
[train]
lr=1e-4
[sampler.nested]
x = 1
[[listed]]
y = 1
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def lines(recipe) -> dict[tuple[str, str], int]:
    return {place: where.line for place, where in recipe.origins.items()}


def problems(path, overrides=()) -> list:
    with pytest.raises(ForgeError) as error:
        read_recipe(path, overrides)
    return error.value.problems


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_every_key_knows_its_line(tmp_path, ending):
    path = tmp_path / "r.toml"
    path.write_bytes(TRICKY.replace("\n", ending).encode("utf-8-sig"))
    recipe = read_recipe(path)
    # Read off the text by eye, 1-based.
    assert lines(recipe) == {
        ("", "seed"): 2,
        ("", "stages"): 3,
        ("model", ""): 9,
        ("model", "use"): 9,
        ("dataset", ""): 11,
        ("dataset", "use"): 12,
        ("dataset", "text"): 13,
        ("dataset", "inline"): 17,
        ("dataset", "quoted key"): 19,
        ("train", ""): 20,
        ("train", "lr"): 21,
        ("sampler", ""): 22,
        ("sampler", "nested"): 22,
        ("", "listed"): 24,
        ("listed", "y"): 25,
    }
    assert recipe.origins["train", "lr"].text == "lr=1e-4"
    assert recipe.origins["dataset", "inline"].text == "inline = { a = 1, b = [1,"
    assert recipe.values["dataset"]["text"] == '[not a table]\nkey = "not a key"\n'
    assert recipe.values["model"] == {"use": "dotted"}
    assert recipe.values[""]["stages"] == ["fetch", "train"]


def test_tables_merge_lists_replace_and_origins_follow(tmp_path):
    write(tmp_path, "base.toml", 'stages = ["a", "b"]\n[train]\nlr = 1\nsteps = 5\n[method]\nuse = "lora"\nrank = 4\n')
    write(tmp_path, "sub/mid.toml", 'extends = "../base.toml"\nstages = ["c"]\n[train]\nlr = 2\n[method]\nrank = 8\n')
    recipe = read_recipe(write(tmp_path, "sub/top.toml", 'extends = "mid.toml"\n[train]\nsteps = 7\n'))
    assert recipe.values == {
        "": {"stages": ["c"]},
        "train": {"lr": 2, "steps": 7},
        "method": {"use": "lora", "rank": 8},
    }
    places = {place: (Path(where.file).name, where.line) for place, where in recipe.origins.items()}
    assert places["train", "lr"] == ("mid.toml", 4)
    assert places["train", "steps"] == ("top.toml", 3)
    assert places["method", "use"] == ("base.toml", 6)
    assert places["train", ""] == ("top.toml", 2)
    assert ("", "extends") not in places


def test_another_component_drops_the_options_of_the_first(tmp_path):
    write(tmp_path, "base.toml", '[method]\nuse = "lora"\nrank = 4\nalpha = 8\n')
    other = read_recipe(write(tmp_path, "other.toml", 'extends = "base.toml"\n[method]\nuse = "full"\n'))
    assert other.values["method"] == {"use": "full"}
    assert ("method", "rank") not in other.origins
    same = read_recipe(write(tmp_path, "same.toml", 'extends = "base.toml"\n[method]\nuse = "lora"\nrank = 1\n'))
    assert same.values["method"] == {"use": "lora", "rank": 1, "alpha": 8}
    assert read_recipe(tmp_path / "base.toml", ["method.use=full"]).values["method"] == {"use": "full"}


def test_overrides_are_toml_or_else_text(tmp_path):
    path = write(tmp_path, "r.toml", "seed = 1\n[train]\nlr = 1\n")
    given = {
        "seed=2": 2,
        "train.lr=5e-5": 5e-5,
        "train.ema=true": True,
        'train.tags=["a", "b"]': ["a", "b"],
        "dataset.path=data/a b#c.mp4": "data/a b#c.mp4",
        'dataset.quoted="in quotes"': "in quotes",
        "generate.prompt=a = b": "a = b",
        "generate.empty=": "",
        "generate.lines=1\nseed = 9": "1\nseed = 9",
    }
    recipe = read_recipe(path, list(given))
    for number, (override, value) in enumerate(given.items(), 1):
        table, _, key = override.partition("=")[0].rpartition(".")
        assert recipe.values[table][key] == value
        where = recipe.origins[table, key]
        assert (where.file, where.line, where.text) == ("command line", number, override)
    assert recipe.origins["train", ""].line == 2


def test_short_names_stand_for_keys_where_nothing_trains(tmp_path):
    path = write(tmp_path, "r.toml", "stages = ['fetch', 'generate']\n[generate]\nseed = 4\n")
    recipe = read_recipe(path, ["input=a b.jpg", "size=64x96", "steps=3", "seed=2", "prompt=it = moves"])
    assert recipe.values["generate"] == {
        **{"seed": 2, "input": "a b.jpg", "height": 64, "width": 96, "prompt": "it = moves"}
    }
    assert recipe.values["sampler"] == {"steps": 3} and recipe.values[""] == {"stages": ["fetch", "generate"]}
    assert recipe.origins[("generate", "width")] == Where("command line", 2, "size=64x96")


def test_a_short_name_that_may_mean_two_things_is_refused(tmp_path):
    path = write(tmp_path, "r.toml", "seed = 1\n")
    with pytest.raises(ForgeError) as error:
        read_recipe(path, ["steps=3", "size=64x64"])
    assert [problem.what.split(" only")[0] for problem in error.value.problems] == [
        "`steps` is short for sampler.steps",
        "`size` is short for generate.height and generate.width",
    ]
    assert read_recipe(path, ["seed=5"]).values[""] == {"seed": 5}
    assert read_recipe(path, ["seed=5", "steps=3"], stages=("generate",)).values == {
        **{"": {"seed": 1}, "generate": {"seed": 5}, "sampler": {"steps": 3}}
    }
    with pytest.raises(ForgeError, match=r"size is generate\.height x generate\.width.*got 64"):
        read_recipe(path, ["size=64"], stages=("generate",))


def test_every_short_name_is_of_a_key():
    tables = {"generate": GenerateOptions, "sampler": type("Sampler", (), {"model_fields": {"steps"}})}
    for keys in ALIASES.values():
        for key in keys.split(" x "):
            table, _, name = key.partition(".")
            assert name in tables[table].model_fields


def test_a_bad_override_is_told_beside_the_others(tmp_path):
    found = problems(write(tmp_path, "r.toml", ""), ["--steps", "train steps=1", "seed=1"])
    assert [(each.what, each.where.line) for each in found] == [
        ("`--steps` sets nothing", 1),
        ("`train steps` is not the name of a key", 2),
    ]
    assert all("train.steps=100" in each.fix for each in found)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("seed = 1\n[train\n", 2, "not valid TOML"),
        ("[train]\npath = data/clips\n", 2, "not valid TOML: invalid value"),
        ("stages = [\n'a',\n\nseed = 1", 4, "not valid TOML: invalid value"),
        ('seed = 1\nprompt = "open\n', 2, "not valid TOML: illegal character"),
        ("[train]\nlr = 1\n[train]\n", 3, "not valid TOML: cannot declare"),
        ("[train]\nlr = 1\nlr = 2\n", 3, "not valid TOML: cannot overwrite a value"),
    ],
)
def test_wrong_toml_points_at_the_line(tmp_path, text, line, what):
    (found,) = problems(write(tmp_path, "r.toml", text))
    assert found.what.startswith(what)
    assert found.where.line == line
    assert found.where.text == text.split("\n")[line - 1]
    assert found.fix


def test_files_of_a_chain_are_told_of_together(tmp_path):
    write(tmp_path, "base.toml", "lr = \n")
    found = problems(write(tmp_path, "r.toml", 'extends = "base.toml"\n[train]\n'), ["oops"])
    assert [Path(each.where.file).name for each in found] == ["base.toml", "command line"]


def test_circles_are_told(tmp_path):
    write(tmp_path, "a.toml", 'extends = "b.toml"\n')
    write(tmp_path, "b.toml", '# b\nextends = "sub/../a.toml"\n')
    (tmp_path / "sub").mkdir()
    (found,) = problems(tmp_path / "a.toml")
    assert "circle" in found.what
    assert (Path(found.where.file).name, found.where.line) == ("b.toml", 2)


def test_missing_files_are_told_with_the_nearest_name(tmp_path):
    path = write(tmp_path, "kitchen.toml", "\nextends = 'kitchne.toml'\n")
    (found,) = problems(path)
    assert (found.where.line, found.fix) == (2, "did you mean `kitchen.toml`?")
    (found,) = problems(tmp_path / "kitchn.toml")
    assert "does not exist" in found.what and found.fix == "did you mean `kitchen.toml`?"
    (found,) = problems(tmp_path)
    assert "is a folder" in found.what
    (found,) = problems(write(tmp_path, "list.toml", "extends = ['kitchen.toml']\n"))
    assert "extends must be one path" in found.what


def test_text_that_is_not_utf8_is_told(tmp_path):
    (tmp_path / "r.toml").write_bytes(b"prompt = '\xff'\n")
    (found,) = problems(tmp_path / "r.toml")
    assert "not UTF-8" in found.what


def test_shipped_recipes_are_found_by_name_but_files_come_first(tmp_path, monkeypatch):
    shipped = {"base.toml": write(tmp_path, "package/base.toml", "seed = 1\n")}
    monkeypatch.setattr("cosmos_forge.recipe.shipped_recipes", lambda: shipped)
    child = write(tmp_path, "mine/child.toml", 'extends = "base.toml"\n')
    assert read_recipe(child).values[""] == {"seed": 1}
    write(tmp_path, "mine/base.toml", "seed = 2\n")
    assert read_recipe(child).values[""] == {"seed": 2}


def test_shipped_recipes_are_toml_files():
    assert all(path.is_file() and path.name == name for name, path in shipped_recipes().items())


@pytest.mark.parametrize(
    "value",
    ["", 'a "quote" \\ back\tslash\nline \x7f é', True, False, 3, -0.5, 1e-5, 1e22, ["a", [1, 2]], {"k k": "v"}],
)
def test_values_survive_being_written(tmp_path, value):
    read = read_recipe(write(tmp_path, "r.toml", f"[t]\nx = {toml_value(value)}\n")).values["t"]["x"]
    assert read == value and type(read) is type(value)
