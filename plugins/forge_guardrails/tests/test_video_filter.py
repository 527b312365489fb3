"""The guardrail video-filter, on a tiny SigLIP and classifiers that are made to see one thing."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SiglipConfig, SiglipModel

from cosmos_forge import ForgeError
from cosmos_forge.testing import GuardrailContract, make_context
from cosmos_forge.testing.guard import make_frames
from cosmos_forge.types import Refusal
from forge_guardrails.categories import SCENES
from forge_guardrails.plugin import VideoFilterOptions
from forge_guardrails.video_filter import WEIGHTS, build, load_classifier, to_pixels

WIDTH, SIZE = 32, 28
TINY = {"hidden_size": WIDTH, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_filter(folder, scene: str) -> dict[str, str]:
    """A whole SigLIP with random weights, as it is published, and a classifier that sees `scene` everywhere."""
    torch.manual_seed(0)
    config = SiglipConfig(
        text_config={**TINY, "vocab_size": 50}, vision_config={**TINY, "image_size": SIZE, "patch_size": 14}
    )
    SiglipModel(config).save_pretrained(folder / "siglip")
    generator = torch.Generator().manual_seed(1)
    shapes = {"0": (512, WIDTH), "3": (256, 512), "6": (7, 256)}
    state = {}
    for number, shape in shapes.items():
        state[f"network.layers.{number}.weight"] = torch.randn(shape, generator=generator) * 0.05
        state[f"network.layers.{number}.bias"] = torch.zeros(shape[0])
    for number, width in (("1", 512), ("4", 256)):
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            state[f"network.layers.{number}.{name}"] = torch.full((width,), value)
        state[f"network.layers.{number}.num_batches_tracked"] = torch.tensor(3)
    state["network.layers.6.bias"][SCENES.index(scene)] = 100.0
    path = folder / "cosmos" / WEIGHTS
    path.parent.mkdir(parents=True)
    torch.save({"model": state}, path)
    return {"model": str(folder / "cosmos"), "encoder": str(folder / "siglip")}


def make(tmp_path, scene: str, **options):
    return build(VideoFilterOptions(**write_filter(tmp_path, scene), **options), make_context(tmp_path))


class TestVideoFilter(GuardrailContract):
    use = "video-filter"

    def make_options(self, tmp_path):
        there = {"model": str(tmp_path / "cosmos"), "encoder": str(tmp_path / "siglip")}
        return there if (tmp_path / "cosmos").exists() else write_filter(tmp_path, "safe")


def test_a_refusal_names_class_and_frame(tmp_path):
    said = make(tmp_path, "violence").check_frames(make_frames(9))
    assert said == Refusal("violence", "frame 1 of 9 looks like it")


def test_what_is_allowed_passes(tmp_path):
    frames = make_frames(9)
    assert torch.equal(make(tmp_path, "drugs", allow=["drugs"]).check_frames(frames), frames)


@pytest.mark.parametrize(("every", "looked_at"), [(1, [*range(20)]), (8, [0, 8, 16, 19]), (50, [0, 19])])
def test_frames_are_looked_at_in_turn(tmp_path, every, looked_at):
    """The class is told by brightness here: the first frame that is dark enough refuses the video."""
    guardrail, frames = make(tmp_path, "safe", every=every), make_frames(20)
    for number in range(20):
        frames[:, number] = 200 - number
    seen = []

    def classify(some_CTHW):
        seen.extend((200 - some_CTHW[0, :, 0, 0].int()).tolist())
        return [2 if int(frame.max()) == 181 else 0 for frame in some_CTHW.unbind(dim=1)]

    guardrail.classify = classify
    assert guardrail.check_frames(frames) == Refusal("violence", "frame 20 of 20 looks like it")
    assert seen == looked_at


def test_classes_are_those_of_the_whole_model(tmp_path):
    """Against SigLIP's own image features, each of length 1, through the formulas of the classifier's layers."""
    guardrail = make(tmp_path, "safe")
    guardrail.classifier[6].bias.zero_()
    frames = torch.randint(0, 256, (3, 6, 40, 50), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    model = SiglipModel.from_pretrained(tmp_path / "siglip").eval()
    pixels = torch.stack([to_pixels(frame, SIZE) for frame in frames.unbind(dim=1)])
    with torch.no_grad():
        features = model.get_image_features(pixel_values=pixels)
        x = getattr(features, "pooler_output", features)
        x = x / x.norm(dim=-1, keepdim=True)
        for number in (0, 3, 6):
            layer = guardrail.classifier[number]
            x = x @ layer.weight.T + layer.bias
            x = (x / (1 + 1e-5) ** 0.5).relu() if number < 6 else x
    assert len(set(guardrail.classify(frames))) > 1 or x.std() > 0
    assert guardrail.classify(frames) == x.argmax(dim=-1).tolist()


def test_pixels_are_those_of_transformers(tmp_path):
    try:
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil as Processor
    except ImportError:
        from transformers import SiglipImageProcessor as Processor
    frame = make_frames(1, 100, 180)[:, 0]
    picture = Image.fromarray(np.ascontiguousarray(frame.permute(1, 2, 0).numpy()))
    wanted = Processor(size={"height": 64, "width": 64})(picture, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(to_pixels(frame, 64), wanted, rtol=0, atol=1e-6)


def test_weights_of_something_else_are_refused(tmp_path):
    write_filter(tmp_path, "safe")
    path = tmp_path / "cosmos" / WEIGHTS
    with pytest.raises(ForgeError, match="holds the weights of something else"):
        load_classifier(path, WIDTH + 1)
    torch.save({"model": {"network.layers.0.weight": np.float64}}, path)
    with pytest.raises(ForgeError, match="no weights that can be read"):
        load_classifier(path, WIDTH)
    path.unlink()
    with pytest.raises(ForgeError, match="no weights that can be read"):
        load_classifier(path, WIDTH)
