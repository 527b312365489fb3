"""The network: counts of the published ones, what its output may depend on, and diffusers as an independent witness.

Shape suffixes as in `forge_cosmos1.dit`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import chain

import pytest
import torch
from torch import Tensor, nn

from forge_cosmos1.dit import VARIANTS, DiT, DiTConfig
from forge_cosmos1.embeddings import rotate
from forge_cosmos1.variants import parameter_shapes
from forge_cosmos1.video2world import Network

SMALL = DiTConfig(48, 2, 2, crossattn_emb_channels=20, adaln_lora_dim=8, max_size=(8, 24, 32))


def random_net(config: DiTConfig = SMALL) -> DiT:
    """No parameter is zero or one, so that nothing hides."""
    net = DiT(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        wide = parameter.ndim > 1 and parameter.shape[-1] ** -0.5
        parameter.data = (wide or 0.1) * torch.randn(parameter.shape, generator=generator) + (not wide)
    return net


def inputs(B: int = 2, T: int = 3, H: int = 8, W: int = 12, M: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask_B1THW = torch.zeros(B, 1, T, H, W)
    mask_B1THW[:, :, 0] = 1
    return {
        "x_BCTHW": torch.randn(B, 16, T, H, W, generator=generator),
        "c_noise_B": torch.randn(B, generator=generator),
        "text_BMD": torch.randn(B, M, SMALL.crossattn_emb_channels, generator=generator),
        "fps_B": torch.full((B,), 24.0),
        "condition_mask_B1THW": mask_B1THW,
    }


@pytest.mark.parametrize(
    ("variant", "parameters", "tensors"),
    [
        ("7b-video2world", 7_236_208_640, 571),
        ("7b-text2world", 7_236_192_256, 571),
        ("14b-video2world", 14_267_169_792, 731),
        ("14b-text2world", 14_267_149_312, 731),
    ],
)
def test_published_sizes(variant: str, parameters: int, tensors: int) -> None:
    with torch.device("meta"):
        net = DiT(VARIANTS[variant])
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    assert len(net.state_dict()) == tensors


def test_names_and_shapes_of_the_published_file() -> None:
    with torch.device("meta"):
        state = DiT(VARIANTS["7b-video2world"]).state_dict()
    block = "blocks.block27.blocks"
    expected = {
        "x_embedder.proj.1.weight": [4096, 72],
        "pos_embedder.seq": [128],
        "extra_pos_embedder.pos_emb_h": [120, 4096],
        "extra_pos_embedder.pos_emb_t": [128, 4096],
        "t_embedder.1.linear_2.weight": [12288, 4096],
        f"{block}.0.block.attn.to_q.1.weight": [128],
        f"{block}.1.block.attn.to_v.0.weight": [4096, 1024],
        f"{block}.1.block.attn.to_out.0.weight": [4096, 4096],
        f"{block}.2.block.layer1.weight": [16384, 4096],
        f"{block}.2.adaLN_modulation.2.weight": [12288, 256],
        "final_layer.linear.weight": [64, 4096],
        "final_layer.adaLN_modulation.2.weight": [8192, 256],
        "affline_norm.weight": [4096],
    }
    assert {name: list(state[name].shape) for name in expected} == expected


@torch.no_grad()
def test_equals_diffusers() -> None:
    """An implementation by others, with the weights that it calls by other names."""
    diffusers = pytest.importorskip("diffusers")
    net, given = random_net(), inputs()
    theirs = diffusers.CosmosTransformer3DModel(
        in_channels=17, out_channels=16, num_attention_heads=2, attention_head_dim=24, num_layers=2,
        text_embed_dim=20, adaln_lora_dim=8, max_size=(8, 24, 32), rope_scale=(2.0, 1.0, 1.0),
    )  # fmt: skip
    theirs.load_state_dict({name_in_diffusers(k): v for k, v in net.state_dict().items() if k != "pos_embedder.seq"})
    theirs.register_to_config(concat_padding_mask=False)  # done below: theirs needs torchvision
    for name, module in theirs.named_modules():
        if name.endswith(("norm_q", "norm_k")):
            module.eps = 1e-6  # the reference's; theirs is 1e-5
    mask_B1THW = given["condition_mask_B1THW"]
    x_BCTHW = torch.cat([given["x_BCTHW"], mask_B1THW, torch.zeros_like(mask_B1THW)], dim=1)
    expected = theirs.eval()(x_BCTHW, given["c_noise_B"], given["text_BMD"], fps=24)[0]
    torch.testing.assert_close(net(**given), expected, rtol=0, atol=2e-5)


def name_in_diffusers(name: str) -> str:
    for pattern, replacement in (
        (r"^x_embedder\.proj\.1", "patch_embed.proj"),
        (r"^extra_pos_embedder", "learnable_pos_embed"),
        (r"^t_embedder\.1", "time_embed.t_embedder"),
        (r"^affline_norm", "time_embed.norm"),
        (r"^final_layer\.adaLN_modulation\.", "norm_out.linear_"),
        (r"^final_layer\.linear", "proj_out"),
        (r"^blocks\.block(\d+)\.blocks", r"transformer_blocks.\1"),
        (r"\.([01])\.block\.attn\.to_([qk])\.1", lambda found: f".attn{int(found[1]) + 1}.norm_{found[2]}"),
        (r"\.([01])\.block\.attn\.to_([qkv])\.0", lambda found: f".attn{int(found[1]) + 1}.to_{found[2]}"),
        (r"\.([01])\.block\.attn\.to_out", lambda found: f".attn{int(found[1]) + 1}.to_out"),
        (r"\.2\.block\.layer1", ".ff.net.0.proj"),
        (r"\.2\.block\.layer2", ".ff.net.2"),
        (r"\.([012])\.adaLN_modulation\.", lambda found: f".norm{int(found[1]) + 1}.linear_"),
    ):
        name = re.sub(pattern, replacement, name)
    return name


@torch.no_grad()
def test_order_of_text_rows_does_not_matter_but_padding_does() -> None:
    """Text has no positions and no mask: rows may be shuffled, and each zero row takes its share of the softmax."""
    net, given = random_net(), inputs()
    plain = net(**given)
    shuffled = net(**{**given, "text_BMD": given["text_BMD"][:, [3, 0, 4, 1, 2]]})
    padded = net(**{**given, "text_BMD": nn.functional.pad(given["text_BMD"], (0, 0, 0, 3))})
    torch.testing.assert_close(shuffled, plain, rtol=0, atol=1e-5)
    assert (padded - plain).abs().max() > 1e-3


@torch.no_grad()
def test_samples_do_not_see_one_another() -> None:
    """Not even through the frame rate, of which the reference takes the batch's first."""
    net, given = random_net(), inputs()
    given["fps_B"] = torch.tensor([12.0, 30.0])
    both = net(**given)
    for index in range(2):
        alone = net(**{name: value[index : index + 1] for name, value in given.items()})
        torch.testing.assert_close(both[index : index + 1], alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_padding_is_brought_to_the_latents_by_nearest_neighbour() -> None:
    net, given = random_net(), inputs()
    padding_B1HW = torch.zeros(2, 1, 8, 12)
    padding_B1HW[0, :, 6:] = 1
    pixels_B1HW = padding_B1HW.repeat_interleave(8, dim=-2).repeat_interleave(8, dim=-1)
    padded = net(**given, padding_mask_B1HW=padding_B1HW)
    torch.testing.assert_close(net(**given, padding_mask_B1HW=pixels_B1HW), padded, rtol=0, atol=0)
    assert (padded - net(**given)).abs().max() > 1e-3


def test_rotation_keeps_lengths_and_knows_only_distances() -> None:
    net = DiT(SMALL)
    fps_B = torch.tensor([24.0])
    rotation_2BL1E = net.pos_embedder(torch.Size([4, 3, 3]), fps_B, torch.float32)
    q, k = torch.randn(2, 1, 36, 1, 24, dtype=torch.float64)
    turned_q = rotate(q[:, :1].expand_as(q), rotation_2BL1E)
    turned_k = rotate(k[:, :1].expand_as(k), rotation_2BL1E)
    torch.testing.assert_close(turned_q.norm(dim=-1), q[:, :1].expand_as(q).norm(dim=-1), rtol=1e-6, atol=0)
    products_LL = torch.einsum("blne,bmne->lm", turned_q, turned_k).view(4, 9, 4, 9)
    later = products_LL[1:, :, 1:]  # the same pairs, one frame later
    torch.testing.assert_close(later, products_LL[:-1, :, :-1], rtol=0, atol=1e-5)


def test_time_positions_are_in_seconds() -> None:
    """Twice the frame rate, every second frame: the same angles."""
    net = DiT(SMALL)
    slow = net.pos_embedder(torch.Size([3, 2, 2]), torch.tensor([12.0]), torch.float32).view(2, 3, 4, -1)
    fast = net.pos_embedder(torch.Size([5, 2, 2]), torch.tensor([24.0]), torch.float32).view(2, 5, 4, -1)
    torch.testing.assert_close(fast[:, ::2], slow, rtol=0, atol=1e-5)


def test_rotary_angles_in_bfloat16() -> None:
    """The largest errors that the reference's angles have on its 16 x 44 x 80 grid: time, height, width."""
    errors = []
    exact, rounded = (
        DiT(replace(SMALL, model_channels=256, rope_precision=precision, max_size=(128, 240, 240))).pos_embedder
        for precision in ("fp32", "bf16")
    )
    for axis, length in enumerate((16, 44, 80)):
        place_L = torch.arange(length)
        each = [
            (place_L.to(dtype)[:, None] * rope._frequencies(axis, dtype)).float()
            for rope, dtype in ((exact, torch.float32), (rounded, torch.bfloat16))
        ]
        errors.append((each[0] - each[1]).abs().max().item())
    assert errors == pytest.approx([0.026, 0.074, 0.148], abs=1e-3)
    grid, fps_B = torch.Size([16, 44, 80]), torch.tensor([24.0])
    far = (exact(grid, fps_B, torch.bfloat16) - rounded(grid, fps_B, torch.float32)).abs().max()
    assert 0.1 < far < 0.15


def test_position_embedding_has_unit_rms() -> None:
    net = random_net()
    position_LD = net.extra_pos_embedder(torch.Size([3, 4, 6]))
    torch.testing.assert_close(position_LD.pow(2).mean(-1), torch.ones(72), rtol=1e-4, atol=0)


def test_every_parameter_gets_a_gradient() -> None:
    net = random_net()
    net(**inputs()).pow(2).sum().backward()
    without = [name for name, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not without


@torch.no_grad()
def test_bfloat16_stays_near_float32() -> None:
    config = replace(SMALL, rope_precision="fp32")
    given = inputs()
    exact = random_net(config)(**given)
    rounded = random_net(config).bfloat16()(**{name: value.bfloat16() for name, value in given.items()})
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() / exact.norm() < 0.03


def test_attention_may_be_replaced() -> None:
    net, seen = random_net(), []
    for block in net.blocks.values():
        for part in list(chain(block.blocks))[:2]:
            part.block.attn.attention = lambda q, k, v: seen.append(q.shape) or v[:, :, :1].expand_as(q)
    net(**inputs())
    assert seen == [(2, 2, 72, 24)] * 4


def test_a_block_compiles_whole() -> None:
    net = random_net()
    block = net.blocks["block0"]
    arguments = (
        torch.randn(1, 72, 48),
        torch.randn(72, 48),
        torch.randn(1, 48),
        torch.randn(1, 144),
        torch.randn(1, 5, 20),
        net.pos_embedder(torch.Size([3, 4, 6]), torch.tensor([24.0]), torch.float32),
    )
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")  # raises on a graph break
    torch.testing.assert_close(compiled(*arguments), block(*arguments), rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes_are_known_before_the_network_is_built(variant: str) -> None:
    with torch.device("meta"):
        net = Network(VARIANTS[variant])
    assert parameter_shapes(VARIANTS[variant]) == {name: tuple(each.shape) for name, each in net.named_parameters()}
