"""The guardrail blocklist: its contract, what it compares, and where its words come from."""

from types import SimpleNamespace

import pytest

from cosmos_forge import ForgeError
from cosmos_forge.options import build_options
from cosmos_forge.testing import GuardrailContract, make_context
from cosmos_forge.types import Refusal
from forge_guardrails.blocklist import Blocklist
from forge_guardrails.plugin import BlocklistOptions, FaceBlurOptions, LlamaGuardOptions, VideoFilterOptions


class TestBlocklist(GuardrailContract):
    use = "blocklist"
    options = {"words": ["knife", "brand name"]}
    refused = "somebody throws a knife"


def check(tmp_path, prompt: str, *words: str):
    options, _ = build_options(BlocklistOptions, {"words": list(words)})
    return Blocklist(options, make_context(tmp_path)).check_prompt(prompt)


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("A KNIFE falls", "knife"),
        ("a knife.", "Knife"),
        ("(knife)", "knife"),
        ("knife-throwing", "knife"),
        ("ＫＮＩＦＥ", "knife"),  # full-width letters
        ("kni\u200bfe and kni\u00adfe", "knife"),  # a zero-width space; a soft hyphen
        ("cafe\u0301", "café"),
        ("a cafe", "CAFÉ"),
        ("Straße", "STRASSE"),
        ("ﬁre", "fire"),  # a ligature
        ("the Brand   Name\nof it", "brand name"),
        ("brand_name", "brand name"),
        ("刀 を", "刀"),
    ],
)
def test_words_are_found_however_they_are_written(tmp_path, prompt, word):
    said = check(tmp_path, prompt, "other", word)
    assert isinstance(said, Refusal) and said.category == "blocklist"


@pytest.mark.parametrize(
    ("prompt", "word"),
    [("knives", "knife"), ("penknife", "knife"), ("brand new name", "brand name"), ("", "knife"), ("!?", "knife")],
)
def test_only_whole_words_count(tmp_path, prompt, word):
    assert check(tmp_path, prompt, word) is None


def test_words_of_a_file(tmp_path):
    (tmp_path / "words.txt").write_text("# ours\nknife  # sharp\n\nbrand name\n", encoding="utf-8-sig")
    options = BlocklistOptions(file=str(tmp_path / "words.txt"))
    before = options.fingerprint()
    guardrail = Blocklist(options, make_context(tmp_path))
    assert guardrail.check_prompt("the brand name") == Refusal("blocklist", "the prompt holds `brand name`")
    assert guardrail.check_prompt("sharp, ours") is None
    (tmp_path / "words.txt").write_text("spoon")
    assert options.fingerprint() != before


def test_a_list_without_words_is_no_list(tmp_path):
    (tmp_path / "empty.txt").write_text("# nothing yet\n")
    with pytest.raises(ForgeError, match="holds no word"):
        Blocklist(BlocklistOptions(words=["!"], file=str(tmp_path / "empty.txt")), make_context(tmp_path))
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(ForgeError, match="cannot be read"):
        Blocklist(BlocklistOptions(file=str(tmp_path / "latin.txt")), make_context(tmp_path))


def test_what_a_recipe_may_not_say(tmp_path, monkeypatch):
    """Each guardrail checks its own table, whatever that is called."""
    monkeypatch.chdir(tmp_path)

    def problems(options):
        plan = SimpleNamespace(
            name_of=lambda of: "guardrail.mine", problem=lambda table, key, what, fix="": (table, key, what)
        )
        assert all("/" in need.repo for need in options.needs())
        return [(key, what) for table, key, what in options.check(plan) if table == "guardrail.mine"]

    assert problems(BlocklistOptions(words=["knife"])) == []
    assert problems(BlocklistOptions(words=[" "])) == [("words", "there is no word to refuse")]
    (tmp_path / "words.txt").write_text("knife\n--\n")
    assert problems(BlocklistOptions(words=["🔪"], file="words.txt")) == [
        ("words", "`🔪` holds no letter and no digit, so no prompt can hold it"),
        ("file", "`--` holds no letter and no digit, so no prompt can hold it"),
    ]
    assert problems(BlocklistOptions(file="no.txt")) == [("file", "file no.txt does not exist")]
    assert problems(LlamaGuardOptions()) == problems(VideoFilterOptions()) == problems(FaceBlurOptions()) == []
    assert problems(LlamaGuardOptions(model="nowhere", allow=["S8", "S4"])) == [
        ("model", "there is no folder nowhere"),
        ("allow", "'S4' cannot be allowed"),
    ]
    assert problems(VideoFilterOptions(encoder="a b", allow=["drugs", "child abuse"])) == [
        ("encoder", "there is no folder a b"),
        ("allow", "'child abuse' cannot be allowed"),
    ]
    assert problems(FaceBlurOptions(model="./weights")) == [("model", "there is no folder ./weights")]
    repos = [need.repo for need in VideoFilterOptions().needs()]
    assert repos == ["nvidia/Cosmos-Guardrail1", "google/siglip-so400m-patch14-384"]
