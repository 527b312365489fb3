"""The text encoder against its contract and against transformers, on a tiny random T5 and a tokenizer trained here."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedTokenizerFast, T5ForConditionalGeneration

from cosmos_forge import Download, ForgeError, Problem
from cosmos_forge.testing import TextEncoderContract, make_context
from forge_t5.plugin import T5Options
from forge_t5.t5 import build

WIDTH, TOKENS = 24, 16


@pytest.fixture
def options(folder):
    return {"model": str(folder), "width": WIDTH, "max_tokens": TOKENS}


class TestT5(TextEncoderContract):
    use = "t5"

    @pytest.fixture(autouse=True)
    def use_folder(self, options):
        self.options = options


def encoder(options, tmp_path, **changes):
    return build(T5Options(**{**options, **changes}), make_context(tmp_path))


def test_is_the_encoder_of_the_whole_model(folder, options, tmp_path):
    """Equal to transformers' own sequence model, fed without padding: padding must not be seen."""
    ours = encoder(options, tmp_path)
    text = ours.encode(["two robots carry a box"])
    whole = T5ForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval()
    ids = text.mask_BL.sum().item()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    tokens = tokenizer("two robots carry a box", return_tensors="pt").input_ids
    assert tokens.shape[1] == ids and tokens[0, -1] == 1, "the end of sentence is the last token"
    with torch.no_grad():
        expected = whole.get_encoder()(tokens).last_hidden_state
    torch.testing.assert_close(text.tokens_BLD[:, :ids], expected, atol=1e-5, rtol=1e-5)


def test_a_cut_prompt_ends_with_the_end_of_sentence(options, tmp_path):
    """What remains is the prompt's beginning; its last token is that of the end."""
    ours = encoder(options, tmp_path)
    long, short = ours.tokenizer.encode("ball " * 40).ids, ours.tokenizer.encode("ball").ids
    words = short[: short.index(1)]
    assert len(long) == TOKENS and long[-1] == 1
    assert long[: len(words)] == words and set(short[len(words) + 1 :]) == {0}


def test_bf16(options, tmp_path):
    """Computed in bfloat16, handed out in float32, close to float32."""
    half, full = encoder(options, tmp_path, dtype="bf16"), encoder(options, tmp_path)
    assert next(half.model.parameters()).dtype == torch.bfloat16
    tokens = half.encode(["a red ball"]).tokens_BLD
    assert tokens.dtype == torch.float32
    torch.testing.assert_close(tokens, full.encode(["a red ball"]).tokens_BLD, atol=0.05, rtol=0.05)


def test_published_download():
    need = T5Options().needs()[0]
    assert need == Download("google-t5/t5-11b", need.files, 45.2, licence="Apache-2.0")
    assert "pytorch_model.bin" in need.files and not any("h5" in name for name in need.files)


def test_other_repositories_have_safetensors():
    need = T5Options(model="someone/small-t5", gigabytes=0.2).needs()[0]
    assert need.repo == "someone/small-t5" and need.gigabytes == 0.2 and "*.safetensors*" in need.files


def test_a_folder_needs_no_download(options):
    assert T5Options(**options).needs() == []


def test_downloaded_files_are_used(folder, options, tmp_path):
    text = build(T5Options(width=WIDTH, max_tokens=TOKENS), make_context(tmp_path, files=lambda download: folder))
    expected = encoder(options, tmp_path).encode(["a red ball"])
    assert torch.equal(text.encode(["a red ball"]).tokens_BLD, expected.tokens_BLD)


def problems(**options):
    plan = SimpleNamespace(
        name_of=lambda of: "text_encoder",
        problem=lambda table, key, what, fix="": Problem(f"[{table}] {key}: {what}", fix=fix),
    )
    return [(problem.what, problem.fix) for problem in T5Options(**options).check(plan)]


def test_checks_before_anything_runs(folder, options, tmp_path):
    assert problems() == problems(**options) == []
    assert "there is no folder ./t5" in problems(model="./t5")[0][0]
    assert "holds no config.json" in problems(model=str(tmp_path))[0][0]
    what, fix = problems(model=str(folder))[0]
    assert f"gives {WIDTH} numbers a token" in what and fix == f"width = {WIDTH}"


def test_wrong_width(options, tmp_path):
    with pytest.raises(ForgeError, match=f"width is 1024, but .* gives {WIDTH}"):
        encoder(options, tmp_path, width=1024)


def test_missing_weights(folder, options, tmp_path):
    """A tensor that is missing must not be filled with noise."""
    broken = shutil.copytree(folder, tmp_path / "broken")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    del state["encoder.block.1.layer.0.SelfAttention.q.weight"]
    torch.save(state, broken / "pytorch_model.bin")
    with pytest.raises(ForgeError, match=r"lack 1 tensors .* encoder\.block\.1\.layer\.0\.SelfAttention\.q"):
        encoder(options, tmp_path, model=str(broken))


def test_folder_without_weights(folder, options, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert json.loads((tmp_path / "config.json").read_text())["d_model"] == WIDTH
    with pytest.raises(ForgeError, match=r"holds no tokenizer\.json"):
        encoder(options, tmp_path, model=str(tmp_path))
    shutil.copy(folder / "tokenizer.json", tmp_path)
    with pytest.raises(ForgeError, match="no T5 can be loaded"):
        encoder(options, tmp_path, model=str(tmp_path))
