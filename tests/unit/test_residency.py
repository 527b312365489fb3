"""Weights in 8 bits, and weights that come block by block: the bounds that are promised, and the same bits."""

from pathlib import Path

import pytest
import torch
from torch import nn

from cosmos_forge.generation import residency
from cosmos_forge.generation.residency import (
    choose_residency,
    fit_residency,
    from_fp8,
    settle,
    store_as_fp8,
    stream_blocks,
    to_fp8,
)
from cosmos_forge.memory import Memory, placed, sampling_memory
from cosmos_forge.planning import make_plan
from cosmos_forge.plugins import load_plugins
from cosmos_forge.recipe import read_recipe
from cosmos_forge.testing import make_context
from cosmos_forge.testing.fakes import TinyNet, build

CPU = torch.device("cpu")
BLOCKS = ["blocks.0", "blocks.1", "blocks.2"]


def tiny(**options) -> TinyNet:
    return TinyNet(count=3, **options).requires_grad_(False)


def tokens(seed=1):
    return torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fp8_keeps_its_bound(dtype):
    """Every weight, over nine orders of magnitude; and what is multiplied out has lost nothing further."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(512, 64, generator=generator) * 10 ** (9 * torch.rand(512, 64, generator=generator) - 6)
    weight[0] = 0
    weight[1] = torch.linspace(-1, 1, 64) * 448  # the largest is one that 8 bits hold
    weight[2] = 2.0**-100
    weight = weight.to(dtype)
    stored, scale = to_fp8(weight)
    assert stored.dtype == torch.float8_e4m3fn and scale.shape == (512, 1)
    assert (torch.frexp(scale)[0] == 0.5).all(), "scales are powers of two"
    largest = weight.float().abs().amax(1, keepdim=True)
    assert ((largest / scale > 224) & (largest / scale <= 448))[largest > 0].all()
    back = from_fp8(stored, scale, torch.float64)
    error, bound = (back - weight.double()).abs(), weight.double().abs() / 17
    assert (error <= torch.maximum(bound, 2.0**-10 * scale.double()) * (1 + 1e-12)).all()
    assert (error <= torch.maximum(bound, 2.0**-17 * largest.double())).all()
    relative = (error / weight.double().abs().clamp(min=1e-300))[(weight.float().abs() >= 2.0**-6 * scale)]
    assert 0.99 / 17 < relative.max() <= 1 / 17, "the bound is reached, so it cannot be lower"
    assert torch.equal(from_fp8(stored, scale, torch.bfloat16).double(), back)


def test_fp8_changes_linear_layers_of_blocks_alone():
    net, plain = tiny(), tiny()
    settle(net, BLOCKS, "fp8", CPU)
    assert torch.equal(net.embed.weight, plain.embed.weight) and torch.equal(net.head.weight, plain.head.weight)
    assert [name for name, each in net.state_dict().items() if each.dtype == torch.float8_e4m3fn] == [
        f"{block}.{layer}.weight" for block in BLOCKS for layer in ("to_q", "to_v", "to_out")
    ]
    block = plain.blocks[0]
    for layer in (block.to_q, block.to_v, block.to_out):
        layer.weight.data = from_fp8(*to_fp8(layer.weight.data), torch.float32)
    assert torch.equal(net.blocks[0](torch.ones(1, 1, 10)), block(torch.ones(1, 1, 10)))


def test_fp8_with_a_bias_and_layers_in_a_row():
    row = nn.Sequential(nn.Linear(3, 5), nn.SiLU(), nn.Sequential(nn.Linear(5, 2))).requires_grad_(False)
    expected = row(torch.ones(1, 3))
    store_as_fp8(row)
    assert torch.allclose(row(torch.ones(1, 3)), expected, atol=0.1) and row[0].bias is not None


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A function that builds the smallest published-like network, stirred, and what calls it."""

    def make():
        model = build("model", "cosmos1-video2world", {"variant": "tiny"}, make_context(tmp_path_factory.mktemp("net")))
        model.load()
        generator = torch.Generator().manual_seed(2)
        for parameter in model.net.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
        return model.net.eval().requires_grad_(False), model.blocks

    return make


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(3)
    x, text = torch.randn(1, 16, 2, 6, 8, generator=generator), torch.randn(1, 8, 64, generator=generator)
    return x, torch.tensor([0.1]), text, torch.tensor([24.0]), torch.zeros(1, 1, 2, 6, 8)


def test_fp8_of_a_transformer(network, inputs, record_property):
    """Rounding errors of weights are independent, so that outputs are off by about their deviation."""
    (plain, blocks), (net, _) = network(), network()
    settle(net, blocks, "fp8", CPU)
    expected, found = plain(*inputs)[0], net(*inputs)[0]
    off = ((found - expected).norm() / expected.norm()).item()
    record_property("output error", off)
    print(f"outputs are off by {off:.4f} of their norm")
    assert 0 < off < 1 / 17


def test_streamed_is_bit_for_bit_the_same(network, inputs):
    (plain, blocks), (net, _) = network(), network()
    names = list(net.state_dict())
    settle(net, blocks, "streamed", CPU)
    assert list(net.state_dict()) == names
    for _ in range(2):
        torch.testing.assert_close(net(*inputs)[0], plain(*inputs)[0], rtol=0, atol=0)
    for name, each in net.state_dict().items():
        assert torch.equal(each, plain.state_dict()[name]), name


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_streamed_in_any_number_and_order(count):
    net, plain = (TinyNet(count=count, seed=count).requires_grad_(False) for _ in range(2))
    stream_blocks(list(net.blocks), CPU)
    assert torch.equal(net(tokens()), plain(tokens()))
    x = torch.randn(1, 2, 10)
    for index in [*range(count)][::-1] + [0, 0, count - 1]:
        assert torch.equal(net.blocks[index](x), plain.blocks[index](x)), index


def test_streamed_computes_from_two_slots_alone():
    net = tiny()
    stream_blocks(list(net.blocks), CPU)
    feed, seen = net.blocks[0].feed, []
    places = [(slot.data_ptr(), slot.data_ptr() + slot.nbytes) for slot in feed.slots]
    for block in net.blocks:
        block.register_forward_pre_hook(lambda block, _: seen.append([each.data_ptr() for each in block.parameters()]))
    net(tokens())
    slots = [
        {next(i for i, (low, high) in enumerate(places) if low <= each < high) for each in block} for block in seen
    ]
    assert len(slots) == 3 and all(len(each) == 1 for each in slots)
    assert slots[0] != slots[1] != slots[2]
    assert all(
        (each - places[min(slot)][0]) % 256 == 0 for slot, block in zip(slots, seen, strict=True) for each in block
    )


def test_a_block_that_fails_keeps_its_weights():
    net = tiny()
    stream_blocks(list(net.blocks), CPU)
    before = net.blocks[1].to_q.weight.clone()
    with pytest.raises(RuntimeError):
        net.blocks[1](torch.zeros(1, 1, 99))
    assert torch.equal(net.blocks[1].to_q.weight, before)
    assert torch.equal(net(tokens()), tiny()(tokens()))


@pytest.mark.parametrize("kept", ["fp8", "streamed"])
def test_compiled_blocks_share_a_graph(kept):
    """And fetch their weights outside of it."""
    torch._dynamo.reset()
    graphs, net, plain = [], tiny(), tiny()

    def backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    settle(net, BLOCKS, kept, CPU)
    settle(plain, BLOCKS, "fp8" if kept == "fp8" else "resident", CPU)
    for block in net.blocks:
        block.compile(backend=backend)
    with torch.no_grad():
        for seed in (1, 2):
            assert torch.equal(net(tokens(seed)), plain(tokens(seed)))
    assert len(graphs) == 1
    torch._dynamo.reset()


def test_prediction_by_hand(network):
    shapes = {
        "embed.weight": (10, 6),
        "blocks.0.a.weight": (8, 4),
        "blocks.0.scale": (8,),
        "blocks.1.a.weight": (16, 4),
    }
    assert placed(shapes, ["blocks.0", "blocks.1"], 2) == {
        "resident": (2 * (60 + 32 + 8 + 64), 0),
        "streamed": (2 * 60 + 2 * 2 * 64, 0),
        "fp8": (2 * 60 + 32 + 4 * 8 + 2 * 8 + 64 + 4 * 16, 2 * 64),
    }
    # And of a network as it is.
    (net, blocks), number = network(), 4
    predicted = placed({name: tuple(each.shape) for name, each in net.named_parameters()}, blocks, number)
    assert predicted["resident"][0] == sum(each.nbytes for each in net.parameters())
    settle(net, blocks, "fp8", CPU)
    ranges = {name for name, _ in network()[0].named_buffers()}
    stored = [each for name, each in net.state_dict().items() if name not in ranges]
    assert predicted["fp8"][0] == sum(each.nbytes for each in stored)


@pytest.mark.parametrize(
    ("usable", "host", "found", "said"),
    [
        (18, 0, "resident", "resident, 17.0 GiB (weights 13.0, working 4.0) of 18.0 for the network; streamed would"),
        (16, 13, "streamed", "fp8 would need 11.0 GiB"),  # exact comes before fp8
        (16, 12, "streamed", "host memory has 12.0 GiB for 13.0 GiB of weights"),
        (4, 20, "streamed", "it may run out of memory"),
    ],
)
def test_auto_takes_what_is_exact_and_says_why(usable, host, found, said):
    gib = 2**30
    needs = {
        name: Memory(weights * gib, working=4 * gib)
        for name, weights in (("resident", 13), ("streamed", 1), ("fp8", 7))
    }
    taken, note = fit_residency(needs, usable * gib, host * gib)
    assert taken == found and said in note.text
    assert note.warning == ("host memory has" in said or "run out" in said)


@pytest.mark.parametrize(("gib", "found"), [(24, "resident"), (16, "streamed"), (12, "streamed")])
def test_auto_of_the_published_size(tmp_path, monkeypatch, gib, found):
    """On what stands in for such GPUs; where two share the tokens, each has half of the activations."""
    monkeypatch.setenv("FORGE_GPUS", "0")
    monkeypatch.setattr(residency, "free_memory", lambda device: (gib - 0.6) * 2**30)
    monkeypatch.setattr(residency, "least", lambda value, context: value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    notes = []
    recipe = read_recipe(Path(__file__).parents[2] / "recipes" / "video2world-7b-generate.toml", [])
    plan = make_plan(recipe, load_plugins(), runs=tmp_path)
    context = make_context(tmp_path, device=torch.device("cuda"), emit=notes.append)
    assert choose_residency(plan, context, parts=1) == found
    needs = sampling_memory(plan)
    assert notes[0].text.startswith(f"memory = auto: {found}, {needs.pop(found)} of")
    assert all(f"{name} would need {size}" in notes[0].text for name, size in needs.items())
    choose_residency(plan, context, parts=2)
    assert all(str(half) in notes[1].text for half in sampling_memory(plan, parts=2).values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("compiled", [False, True])
def test_streamed_on_a_gpu(network, inputs, compiled):
    """Copies overlap with computing, and come neither too late nor too early."""
    cuda = torch.device("cuda")
    (plain, blocks), (net, _) = network(), network()
    settle(plain, blocks, "resident", cuda)
    settle(net, blocks, "streamed", cuda)
    for name in blocks if compiled else ():
        net.get_submodule(name).compile()
        plain.get_submodule(name).compile()
    there = [each.to(cuda) for each in inputs]
    with torch.no_grad():
        for _ in range(20):
            assert torch.equal(net(*there)[0], plain(*there)[0])
    assert all(each.device.type == "cpu" and each.is_pinned() for each in net.get_submodule(blocks[0]).parameters())
