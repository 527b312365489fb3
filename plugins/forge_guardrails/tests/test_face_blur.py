"""The guardrail face-blur: RetinaFace's parts against others and closed forms, and what becomes of a face."""

import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetModel

from cosmos_forge import ForgeError
from cosmos_forge.testing import GuardrailContract
from cosmos_forge.testing.guard import make_frames
from forge_guardrails.face_blur import WEIGHTS, FaceBlur, keep_one_a_face, pixelate
from forge_guardrails.files import load_tensors
from forge_guardrails.plugin import FaceBlurOptions
from forge_guardrails.retinaface import Body, RetinaFace, make_anchors


def blind(net: RetinaFace) -> RetinaFace:
    """Finds no face: the second number of each anchor's two says how sure it is."""
    for head in net.ClassHead:
        nn.init.zeros_(head.conv1x1.weight)
        head.conv1x1.bias.data = torch.tensor([9.0, -9.0, 9.0, -9.0])
    for head in net.BboxHead:
        nn.init.zeros_(head.conv1x1.weight)
        nn.init.zeros_(head.conv1x1.bias)
    return net


class TestFaceBlur(GuardrailContract):
    use = "face-blur"

    def make_options(self, tmp_path):
        folder = tmp_path.parent / "retinaface"  # 0.1 GB: once is enough
        if not (folder / WEIGHTS).exists():
            (folder / WEIGHTS).parent.mkdir(parents=True, exist_ok=True)
            state = {f"module.{name}": value for name, value in blind(RetinaFace()).state_dict().items()}
            state |= {f"module.LandmarkHead.{number}.conv1x1.bias": torch.zeros(20) for number in range(3)}
            torch.save(state, folder / WEIGHTS)
        return {"model": str(folder)}


def randomise(net: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            value.copy_(
                torch.rand(value.shape, generator=generator) * (0.2 if "conv" in name or "downsample" in name else 1)
            )
            value.add_(0.5 if "running_var" in name else -0.1)


def test_the_body_is_a_resnet():
    """Against transformers' ResNet of the same weights, stage by stage."""
    body = Body(width=8, depths=(2, 1, 2, 1)).eval()
    randomise(body)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[32, 64, 128, 256], depths=[2, 1, 2, 1])
    other = ResNetModel(config).eval()
    names = {"conv1": "embedder.embedder.convolution", "bn1": "embedder.embedder.normalization"}
    for stage, depth in enumerate(config.depths):
        for block in range(depth):
            ours, theirs = f"layer{stage + 1}.{block}", f"encoder.stages.{stage}.layers.{block}"
            for number in range(3):
                names[f"{ours}.conv{number + 1}"] = f"{theirs}.layer.{number}.convolution"
                names[f"{ours}.bn{number + 1}"] = f"{theirs}.layer.{number}.normalization"
            names[f"{ours}.downsample.0"] = f"{theirs}.shortcut.convolution"
            names[f"{ours}.downsample.1"] = f"{theirs}.shortcut.normalization"
    state = {
        f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": each for key, each in body.state_dict().items()
    }
    other.load_state_dict(state)
    frame = torch.randn(1, 3, 70, 90, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = other(frame, output_hidden_states=True).hidden_states[-3:]
        for level, expected in zip(body(frame), wanted, strict=True):
            torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-4)


def test_names_and_sizes_are_the_published_ones():
    shapes = {name: tuple(value.shape) for name, value in RetinaFace().state_dict().items()}
    known = {
        "body.conv1.weight": (64, 3, 7, 7),
        "body.layer1.0.downsample.1.running_var": (256,),
        "body.layer4.2.conv3.weight": (2048, 512, 1, 1),
        "fpn.output3.0.weight": (256, 2048, 1, 1),
        "fpn.merge2.1.bias": (256,),
        "ssh1.conv3X3.0.weight": (128, 256, 3, 3),
        "ssh2.conv5X5_1.0.weight": (64, 256, 3, 3),
        "ssh2.conv7X7_2.0.weight": (64, 64, 3, 3),
        "ssh3.conv7x7_3.1.running_mean": (64,),
        "ClassHead.0.conv1x1.weight": (4, 256, 1, 1),
        "BboxHead.2.conv1x1.bias": (8,),
    }
    assert known.items() <= shapes.items()


def test_anchors_lie_in_the_middle_of_their_cells():
    levels = list(make_anchors([(3, 4), (2, 2), (1, 1)]))
    assert [len(level) for level in levels] == [24, 8, 2]
    assert levels[0][:4].tolist() == [[4, 4, 16, 16], [4, 4, 32, 32], [12, 4, 16, 16], [12, 4, 32, 32]]
    assert levels[1][-1].tolist() == [24, 24, 128, 128] and levels[2][-1].tolist() == [16, 16, 512, 512]


def test_boxes_are_anchors_moved_and_scaled():
    net = blind(RetinaFace(width=4, channels=16, depths=(1, 1, 1, 1))).eval()
    # Moved by 0.1 x 2 anchors to the right, twice as wide (exp(0.2 x 5 ln 2)), as high as before.
    net.BboxHead[0].conv1x1.bias.data[:4] = torch.tensor([2.0, 0.0, 5 * torch.log(torch.tensor(2.0)), 0.0])
    with torch.no_grad():
        boxes, sure = net(torch.zeros(1, 3, 32, 32))
    assert boxes.shape == (1, 2 * (16 + 4 + 1), 4) and float(sure.max()) < 1e-6
    torch.testing.assert_close(boxes[0, 0], torch.tensor([4 + 3.2 - 16, 4 - 8, 4 + 3.2 + 16, 4 + 8.0]))
    torch.testing.assert_close(boxes[0, 1], torch.tensor([4.0 - 16, 4 - 16, 4 + 16, 4 + 16]))


def test_a_face_that_is_found_is_reduced_to_blocks():
    net = blind(RetinaFace(width=4, channels=16, depths=(1, 1, 1, 1)))
    net.ClassHead[1].conv1x1.bias.data[:2] = torch.tensor([-9.0, 9.0])  # every anchor of 64 pixels is a face
    guardrail = FaceBlur(net, FaceBlurOptions(), torch.device("cpu"))
    frames = make_frames(2, 64, 64)
    frames[0] = torch.randint(0, 256, frames[0].shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    changed = guardrail.check_frames(frames)
    assert not torch.equal(changed, frames) and len(changed[0, 0].unique()) < 200 < len(frames[0, 0].unique())
    low = changed.float().mean(dim=(2, 3)) - frames.float().mean(dim=(2, 3))
    assert low.abs().max() < 8, "blocks are means of what they hide"


def test_faces_that_are_small_or_unsure_stay():
    net = blind(RetinaFace(width=4, channels=16, depths=(1, 1, 1, 1)))
    net.ClassHead[0].conv1x1.bias.data[:2] = torch.tensor([-9.0, 9.0])  # anchors of 16 pixels
    frames = make_frames(1, 64, 64)
    assert torch.equal(FaceBlur(net, FaceBlurOptions(), torch.device("cpu")).check_frames(frames), frames)
    near = FaceBlur(net, FaceBlurOptions(smallest=16), torch.device("cpu"))
    assert not torch.equal(near.check_frames(frames), frames)
    net.ClassHead[0].conv1x1.bias.data[:2] = torch.tensor([0.0, 0.8])  # 0.69
    assert torch.equal(near.check_frames(frames), frames)


def test_blocks_are_means():
    region = torch.arange(100, dtype=torch.uint8).view(1, 10, 10).repeat(3, 1, 1)
    picture = torch.zeros(3, 12, 12, dtype=torch.uint8)
    picture[:, 1:11, 1:11] = region
    pixelate(picture[:, 1:11, 1:11], 5)
    # The first block is of 0, 1, 10 and 11: 5.5, rounded to even.
    assert picture[:, 1:3, 1:3].unique().tolist() == [6] and picture[0, 9:11, 9:11].unique().tolist() == [94]
    assert picture[:, 0].max() == 0 and picture[:, :, 11].max() == 0
    pixelate(picture[:, 5:5], 5)


def test_one_box_a_face():
    boxes = torch.tensor([[0.0, 0, 99, 99], [10, 10, 109, 109], [60, 60, 159, 159], [0, 0, 99, 99]])
    # Of 100 x 100 pixels each: the second shares 8100 of 11900 with the first, the third 1600 of 18400.
    assert keep_one_a_face(boxes) == [0, 2]
    assert keep_one_a_face(boxes[1:2]) == [0] and keep_one_a_face(boxes[:0]) == []


def test_weights_must_fit(tmp_path):
    net = RetinaFace(width=4, channels=16, depths=(1, 1, 1, 1))
    state = net.state_dict()
    state.pop("body.conv1.weight")
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(ForgeError, match="something else") as error:
        load_tensors(net, tmp_path / "net.pth", "", "module.", unused="LandmarkHead.")
    assert "body.conv1.weight" in error.value.problems[0].fix
