"""AdamW with float8 moments: beside torch's in float32, its rounding, and what a checkpoint and pieces make of it."""

import shutil

import pytest
import torch
from torch import nn

from cosmos_forge.training import checkpoint
from cosmos_forge.training.adamw8bit import SMALLEST, AdamW8bit, pack, unpack
from cosmos_forge.training.saving import Saver

SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-10, "weight_decay": 0.1}


def problem(seed=0):
    """A regression of 48 outputs on 300 inputs; two parameters, of which one is too small for float8."""
    generator = torch.Generator().manual_seed(seed)
    weight = nn.Parameter(torch.randn(48, 300, generator=generator) * 0.1)
    bias = nn.Parameter(torch.zeros(48))
    inputs = torch.randn(256, 300, generator=generator)
    targets = inputs @ torch.randn(300, 48, generator=generator) * 0.1

    def loss():
        return (inputs @ weight.T + bias - targets).square().mean()

    return [weight, bias], loss


def train(optimizer, loss, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    return loss().item()


def test_rounding_is_near_and_right_in_the_mean():
    torch.manual_seed(0)
    values = torch.randn(3, 700).mul(torch.logspace(-3, 0, 700))
    drawn = torch.stack([unpack(*pack(values)) for _ in range(400)])
    block_largest = nn.functional.pad(values, (0, 68)).unflatten(-1, (-1, 256)).abs().amax(-1)
    floor = block_largest.repeat_interleave(256, dim=-1)[:, :700] * SMALLEST / 448
    assert ((drawn - values).abs() <= values.abs() / 8 + floor).all()
    far = (drawn.mean(0) - values).abs()
    assert (far <= values.abs() / 8 * 5 / 400**0.5 + floor).all()


def test_roots_stay_above_zero_and_zeros_stay_zero():
    values = torch.zeros(1, 256)
    values[0, 0], values[0, 1] = 1.0, 1e-12
    kept = unpack(*pack(values, positive=True))
    assert kept[0, 1] > 0
    assert not kept[0, 2:].any()
    assert not pack(torch.zeros(2, 300))[0].float().any()


def test_it_learns_as_torchs_does():
    torch.manual_seed(0)
    parameters, loss = problem()
    start = loss().item()
    small = train(AdamW8bit(parameters, **SETTINGS), loss, 150)
    parameters, loss = problem()
    exact = train(torch.optim.AdamW(parameters, **SETTINGS), loss, 150)
    assert exact < 0.2 * start
    assert small < 1.2 * exact + 1e-3 * start


def test_small_parameters_train_as_torchs():
    (_, bias), loss = problem()
    train(AdamW8bit([bias], **SETTINGS), loss, 20)
    (_, same), loss = problem()
    train(torch.optim.AdamW([same], **SETTINGS), loss, 20)
    torch.testing.assert_close(bias, same, rtol=1e-5, atol=1e-7)


def stepped(device, compiled, steps):
    """Parameters and optimizer after steps with drawn gradients, at a learning rate that falls."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape).to(device)) for shape in ((48, 300), (64, 512), (100, 256), (40,))]
    optimizer = AdamW8bit(parameters, **SETTINGS, compiled=compiled)
    for step in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)).to(device)
        optimizer.param_groups[0]["lr"] = 1e-2 / (step + 1)
        optimizer.step()
    return parameters, optimizer


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that knows float8")
HOST = pytest.mark.skipif(not shutil.which("g++"), reason="compiling for a CPU needs g++")


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=[pytest.mark.slow, HOST]), pytest.param("cuda", marks=[pytest.mark.gpu, GPU])]
)
def test_compiled_it_does_the_same(device):
    """But for what is drawn: by it, moments part by a step of float8's grid, and weights from the second step on."""
    (plain, of_plain), (fused, of_fused) = (stepped(device, compiled, 1) for compiled in (False, True))
    for one, other in zip(plain, fused, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-6)
        state, same = of_plain.state[one], of_fused.state[other]
        for name in ("exp_avg", "exp_avg_sq_root") if "exp_avg_scale" in state else ():
            scale = state[f"{name}_scale"]
            torch.testing.assert_close(same[f"{name}_scale"], scale)
            exact, found = (unpack(each[name], each[f"{name}_scale"]) for each in (state, same))
            assert ((exact - found).abs() <= exact.abs() / 8 + scale.max() * SMALLEST).all()
            assert not torch.equal(exact, found)
    ways = ((False, 0), (False, 4), (True, 4), (True, 4))
    for start, one, other, again in zip(*(stepped(device, *way)[0] for way in ways), strict=True):
        assert (other - one).norm() < 0.03 * (one - start).norm()
        assert torch.equal(other, again)


def test_a_step_with_infinite_gradients_changes_nothing():
    parameters, loss = problem()
    optimizer = AdamW8bit(parameters, **SETTINGS)
    train(optimizer, loss, 2)
    before = [parameter.detach().clone() for parameter in parameters]
    states = [{name: value.clone() for name, value in optimizer.state[each].items()} for each in parameters]
    loss().backward()
    parameters[0].grad[0, 0] = float("nan")
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    for parameter, old, state in zip(parameters, before, states, strict=True):
        assert torch.equal(parameter, old)
        for name, value in optimizer.state[parameter].items():
            assert torch.equal(value.float(), state[name].float()), name


def test_it_takes_a_quarter_of_the_memory():
    (weight, _), loss = problem()
    optimizer = AdamW8bit([weight], **SETTINGS)
    train(optimizer, loss, 1)
    bytes_ = sum(value.numel() * value.element_size() for value in optimizer.state[weight].values())
    assert bytes_ < weight.numel() * 2.1


def test_a_checkpoint_holds_all_of_it(tmp_path):
    (weight, _), loss = problem()
    optimizer = AdamW8bit([weight], **SETTINGS)
    train(optimizer, loss, 3)
    with Saver(tmp_path, keep=1) as saver:
        saver.save(3, {f"optimizer/{k}": v for k, v in optimizer.state[weight].items()})
    fresh = optimizer.start(weight)
    checkpoint.restore(checkpoint.latest(tmp_path), {f"optimizer/{name}": value for name, value in fresh.items()})
    for name, value in optimizer.state[weight].items():
        assert fresh[name].dtype == value.dtype
        assert torch.equal(fresh[name].float(), value.float()), name


@pytest.fixture
def alone():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield torch.distributed.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_pieces_are_trained_as_the_whole(alone):
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    (weight, _), loss = problem()
    torch.manual_seed(3)
    train(AdamW8bit([weight], **SETTINGS), loss, 3)

    (plain, _), loss = problem()
    pieces = nn.Parameter(distribute_tensor(plain.detach(), alone, [Shard(0)]))
    optimizer = AdamW8bit([pieces], **SETTINGS)
    torch.manual_seed(3)
    for _ in range(3):
        plain.grad = None
        loss().backward()
        pieces.grad = distribute_tensor(plain.grad, alone, [Shard(0)])
        optimizer.step()
        plain.data.copy_(pieces.full_tensor())
    assert torch.equal(pieces.full_tensor(), weight)
    assert all(isinstance(value, DTensor) for name, value in optimizer.state[pieces].items() if name != "step")
