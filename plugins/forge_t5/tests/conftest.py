"""A tiny random T5, with a tokenizer trained here."""

import pytest
import torch
from tokenizers import SentencePieceUnigramTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import T5Config, T5ForConditionalGeneration

WIDTH = 24
SENTENCES = ["a red ball", "two robots carry a box through a long corridor", "words of a small world", "the ball rolls"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder like google-t5/t5-11b's: weights of encoder and decoder in one .bin, tokenizer.json, nothing else."""
    folder = tmp_path_factory.mktemp("t5")
    tokenizer = SentencePieceUnigramTokenizer()
    tokenizer.train_from_iterator(
        SENTENCES * 20, vocab_size=60, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = T5Config(vocab_size=80, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=3)
    model = T5ForConditionalGeneration(config)
    (folder / "config.json").write_text(config.to_json_string())
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder
