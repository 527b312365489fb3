"""The network against recorded outputs and intermediates, and against diffusers with the recorded map of names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from forge_cosmos1.dit import DiT

TOLERANCE = 1e-5


def network(case: Any) -> DiT:
    net = DiT(case.dit_config())
    net.load_state_dict(case.part("weights/"))
    return net


def arguments(case: Any) -> tuple[Tensor | None, ...]:
    given = case.part("in/")
    return (
        given["x"],
        given["timesteps"].expand(len(given["x"])),
        given["crossattn_emb"],
        given["fps"],
        given["condition_video_input_mask"],
        given["padding_mask"],
        given.get("condition_video_augment_sigma"),
    )


@pytest.mark.golden("a_dit/*")
@torch.no_grad()
def test_output(case: Any, check: Callable[..., None]) -> None:
    check("output", network(case)(*arguments(case)), case.tensors["out/x"], TOLERANCE)


@pytest.mark.golden("b_intermediates/*")
@torch.no_grad()
def test_intermediates(case: Any, check: Callable[..., None]) -> None:
    source = case.beside(f"../a_dit/{case.name}.json")
    net = network(source)
    seen = Intermediates(net)
    net(*arguments(source))
    for name in case.record["config"]["order"]:
        recorded = case.tensors[f"mid/{name}"]
        if name == "pos_embedder":  # the record has each angle twice, one for either half of a head
            recorded = torch.stack([recorded.cos(), recorded.sin()])
        check(name, seen.values[name], recorded, TOLERANCE)


class Intermediates:
    """Listens to a network and keeps what passes, by the recorded names and in the recorded layout."""

    def __init__(self, net: DiT) -> None:
        self.values: dict[str, Tensor] = {}
        net.x_embedder.register_forward_hook(self._embedded)
        net.pos_embedder.register_forward_hook(self._angles)
        self._keep(net.extra_pos_embedder, "extra_pos_embedder", lambda x: x.view(1, *self.grid, -1))
        self._keep(net.t_embedder[0], "t_embedder.sinusoid")
        self._keep(net.t_embedder[0], "t_embedder.out.0")  # what drives the modulations is the sinusoid itself
        self._keep(net.t_embedder[1], "t_embedder.out.1")
        self._keep(net.affline_norm, "affline_norm")
        self._keep(net.final_layer, "final_layer", lambda x: rearrange(x, "B (T L) C -> (B T) L C", T=self.grid[0]))
        for block_name, block in net.blocks.items():
            self._keep(block, block_name, self._grid)
            for kind, part in zip(("FA", "CA", "MLP"), block.blocks, strict=True):
                name = f"{block_name}.{kind}"
                self._keep(part, name, self._grid)
                self._keep(part.adaLN_modulation, f"{name}.adaLN")
                self._keep(part.block, f"{name}.branch", self._grid)
                if kind != "MLP":
                    self._attention(part.block.attn, name)

    def _attention(self, attn: Any, name: str) -> None:
        self._keep(attn.to_q[1], f"{name}.q_normed", lambda x: x.transpose(0, 1))
        self._keep(attn.to_k[1], f"{name}.k_normed", lambda x: x.transpose(0, 1))
        plain = attn.attention

        def listening(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out = plain(q, k, v)
            for what, value in zip("qkv", (q, k, v), strict=True):
                self.values[f"{name}.attn.{what}"] = rearrange(value, "B N L E -> L B N E")
            self.values[f"{name}.attn.out"] = rearrange(out, "B N L E -> L B (N E)")
            return out

        attn.attention = listening

    def _keep(self, module: nn.Module, name: str, layout: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        module.register_forward_hook(lambda module, inputs, output: self.values.update({name: layout(output)}))

    def _embedded(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self.grid = output.shape[1:4]
        self.values |= {"x_embedder.in": inputs[0], "x_embedder": output}

    def _angles(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.values["pos_embedder"] = output[:, 0, :, None].repeat(1, 1, 1, 1, 2)

    def _grid(self, x_BLD: Tensor) -> Tensor:
        T, H, W = self.grid
        return rearrange(x_BLD, "B (T H W) D -> T H W B D", T=T, H=H, W=W)


@pytest.mark.golden("h_diffusers/key_map")
def test_key_map_covers_the_network(case: Any, check: Callable[..., None]) -> None:
    """Every name of ours, and no other, stands in the recorded map."""
    source = case.beside("../a_dit/a1_7b_b1_fps24.json")
    ours = {re.sub(r"block\d+", "block{i}", name) for name in DiT(source.dit_config()).state_dict()}
    check("names without counterpart", len(ours ^ set(case.record["patterns"])), 0, 0)


@pytest.mark.golden("h_diffusers/parity")
@torch.no_grad()
def test_equals_diffusers(case: Any, check: Callable[..., None]) -> None:
    """As close as the record says the reference is."""
    diffusers = pytest.importorskip("diffusers")
    patterns = case.beside("key_map.json").record["patterns"]
    for name, recorded in case.record["max_abs_diff"].items():
        if isinstance(recorded, str):
            continue  # says why diffusers cannot represent it
        source = case.beside(f"../a_dit/{name}.json")
        theirs = to_diffusers(diffusers, source.dit_config(), source.part("weights/"), patterns)
        x, c_noise, text, fps, mask, padding, _ = arguments(source)
        # Masks come at pixel resolution, eight to a latent. diffusers would take one mask a batch, through torchvision.
        padding = padding[:, :, None, ::8, ::8].expand_as(mask)
        expected = theirs(torch.cat([x, mask, padding], dim=1), c_noise, text, fps=int(fps[0]))[0]
        tolerance = max(TOLERANCE, 4 * recorded["with_qk_eps_1e-6"])
        check(name, network(source)(*arguments(source)), expected, tolerance)


def to_diffusers(diffusers: Any, config: Any, weights: dict[str, Tensor], patterns: dict[str, str | None]) -> nn.Module:
    theirs = diffusers.CosmosTransformer3DModel(
        in_channels=config.latent_channels + 1,
        out_channels=config.latent_channels,
        num_attention_heads=config.num_heads,
        attention_head_dim=config.model_channels // config.num_heads,
        num_layers=config.num_blocks,
        mlp_ratio=config.mlp_ratio,
        text_embed_dim=config.crossattn_emb_channels,
        adaln_lora_dim=config.adaln_lora_dim,
        max_size=config.max_size,
        rope_scale=config.rope_ratio,
    )
    state = {}
    for name, value in weights.items():
        number = re.search(r"block(\d+)", name)
        target = patterns[re.sub(r"block\d+", "block{i}", name)]
        if target is not None:
            state[target.replace("{i}", number[1] if number else "")] = value
    theirs.load_state_dict(state)
    theirs.register_to_config(concat_padding_mask=False)
    for name, module in theirs.named_modules():
        if name.endswith(("norm_q", "norm_k")):
            module.eps = 1e-6  # the reference's; diffusers has 1e-5
    return theirs.eval()
