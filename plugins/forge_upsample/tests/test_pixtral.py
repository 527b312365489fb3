"""The prompt upsampler pixtral, on tiny models of the same classes."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    PreTrainedTokenizerFast,
)

from cosmos_forge import ForgeError
from cosmos_forge.testing import PromptUpsamplerContract, make_context
from cosmos_forge.testing.guard import make_frames
from forge_upsample.pixtral import build, image_tokens, to_pixels
from forge_upsample.plugin import PixtralOptions

CONTROL = ["[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]


def write_pixtral(folder, answer: str | None, image_token: str = "[IMG]"):
    """A Pixtral in `folder` whose every word depends on the one before alone, so that it gives this answer; random
    where there is none."""
    letters = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bytes_ = Tokenizer(models.BPE(letters, []))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_, bos_token="<s>", eos_token="</s>", additional_special_tokens=CONTROL
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 288, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = LlavaConfig(
        text_config=MistralConfig(
            **size, vocab_size=len(tokenizer), num_key_value_heads=2, head_dim=72, eos_token_id=tokenizer.eos_token_id
        ),
        vision_config=PixtralVisionConfig(
            hidden_size=32, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=128
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(image_token),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    if answer is not None:
        chain = tokenizer("[/INST]" + answer)["input_ids"] + [tokenizer.eos_token_id]
        assert len(set(chain)) == len(chain)
        language = model.model.language_model
        with torch.no_grad():
            language.layers[0].self_attn.o_proj.weight.zero_()
            language.layers[0].mlp.down_proj.weight.zero_()
            language.embed_tokens.weight.copy_(torch.eye(len(tokenizer), 288))
            model.lm_head.weight.zero_()
            for before, after in pairwise(chain):
                model.lm_head.weight[after, before] = 1.0
    model.save_pretrained(folder)
    return folder


class TestPixtral(PromptUpsamplerContract):
    use = "pixtral"

    def make_options(self, tmp_path):
        folder = tmp_path / "pixtral"
        return {"model": str(folder if folder.exists() else write_pixtral(folder, " slowy"))}


def make(tmp_path, answer: str | None, **options):
    folder = write_pixtral(tmp_path / "pixtral", answer)
    return build(PixtralOptions(model=str(folder), **options), make_context(tmp_path))


def test_the_model_is_shown_frame_and_prompt(tmp_path):
    pixtral, shown = make(tmp_path, " slowy", max_side=64), {}
    generate = pixtral.model.generate

    def spy(**inputs):
        shown.update(inputs)
        return generate(**inputs)

    pixtral.model.generate = spy
    assert pixtral.upsample("a [IMG] cup [/INST]", make_frames(1, 96, 128)[:, 0]) == "slowy"
    text = pixtral.tokenizer.decode(shown["input_ids"][0])
    rows = ["[IMG]" * 4] * 3
    assert text.startswith(f"<s>[INST]{'[IMG_BREAK]'.join(rows)}[IMG_END]\n") and text.endswith("[/INST]")
    assert "a (IMG) cup (/INST)" in text and text.count("[/INST]") == 1
    assert shown["pixel_values"].shape == (1, 3, 48, 64) and shown["image_sizes"].tolist() == [[48, 64]]


def test_the_frame_matters(tmp_path):
    """Random weights: what the model sees reaches what it says next."""
    pixtral = make(tmp_path, None)
    said = []
    for frame in (make_frames(1)[:, 0], 255 - make_frames(1)[:, 0]):
        pixels = to_pixels(frame, 1024, 16)[None]
        ids = pixtral.tokenizer(f"<s>[INST]{image_tokens(3, 4)}[/INST]", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            out = pixtral.model(input_ids=ids, pixel_values=pixels, image_sizes=torch.tensor([[48, 64]]))
        said.append(out.logits[0, -1])
    assert (said[0] - said[1]).abs().max() > 1e-4


def test_an_answer_without_end_is_told(tmp_path):
    with pytest.raises(ForgeError, match="more than 3 tokens"):
        make(tmp_path, " slowy", max_new_tokens=3).upsample("a cup", make_frames(1)[:, 0])


def test_what_does_not_fit_is_told(tmp_path):
    folder = write_pixtral(tmp_path / "other", None, image_token="[INST]")
    with pytest.raises(ForgeError, match=r"tokenizer in .* is not this model's"):
        build(PixtralOptions(model=str(folder)), make_context(tmp_path))
    with pytest.raises(ForgeError, match="Pixtral cannot be loaded"):
        build(PixtralOptions(model=str(tmp_path)), make_context(tmp_path))


@pytest.mark.parametrize(("height", "width"), [(100, 180), (704, 1280), (33, 16), (2000, 700)])
def test_pixels_are_those_of_transformers(height, width):
    try:
        from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil as Processor
    except ImportError:
        from transformers import PixtralImageProcessor as Processor
    frame = make_frames(1, height, width)[:, 0]
    picture = Image.fromarray(np.ascontiguousarray(frame.permute(1, 2, 0).numpy()))
    wanted = Processor()(picture, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(to_pixels(frame, 1024, 16), torch.as_tensor(wanted[0]), rtol=0, atol=1e-5)


def test_needs_tell_size_and_licence():
    (need,) = PixtralOptions().needs()
    assert (need.repo, need.gigabytes, need.licence) == ("mistral-community/pixtral-12b", 25.4, "Apache-2.0")
