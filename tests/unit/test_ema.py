"""Averaged weights and the learning rate, against closed forms."""

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from cosmos_forge.training.ema import PowerEMA, ema_beta, ema_gamma
from cosmos_forge.training.schedule import lr_factor


@pytest.mark.parametrize("width", [0.025, 0.05, 0.1, 0.25])
def test_profile_has_the_width(width):
    """The deviation of the density t^gamma on [0, 1], integrated numerically, is the width asked for."""
    gamma = ema_gamma(width)
    time = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    density = time**gamma / (time**gamma).sum()
    mean = (density * time).sum()
    assert ((density * (time - mean) ** 2).sum().sqrt()).item() == pytest.approx(width, rel=1e-4)


@pytest.mark.parametrize("width", [0.0, -0.1, 0.3])
def test_impossible_width(width):
    with pytest.raises(ValueError, match="width of an average"):
        ema_gamma(width)


def test_average_is_the_weighted_mean():
    """Unrolled, the updates are a weighted mean of all weights that were seen, the first included only by share."""
    width, values = 0.1, torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parameter = nn.Parameter(torch.zeros(3))
    average = PowerEMA({"weight": parameter}, width)
    for iteration, value in enumerate(values):
        parameter.data.copy_(value)
        average.update(iteration)
    betas = torch.tensor([ema_beta(i, width) for i in range(20)], dtype=torch.float64)
    shares = torch.stack([(1 - betas[i]) * betas[i + 1 :].prod() for i in range(20)])
    assert shares.sum().item() == pytest.approx(1)
    torch.testing.assert_close(average.averages["weight"].double(), shares @ values, atol=1e-6, rtol=1e-6)


def test_average_of_bfloat16_is_float32():
    """An average that creeps by less than a bfloat16 step must not stand still."""
    parameter = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    average = PowerEMA({"weight": parameter}, 0.1)
    average.update(0)
    parameter.data.fill_(1 + 2**-7)
    average.update(1999)
    expected = 1 + (1 - ema_beta(1999, 0.1)) * 2**-7
    assert average.averages["weight"].dtype == torch.float32
    assert average.averages["weight"][0].item() == pytest.approx(expected, abs=1e-7)


def test_average_of_pieces():
    """The average of a DTensor is a DTensor of the same pieces, with the average of the whole."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        whole = torch.arange(6.0).reshape(2, 3)
        parameter = distribute_tensor(whole.clone(), mesh, [Shard(0)])
        average = PowerEMA({"weight": parameter}, 0.1)
        average.update(0)
        parameter.mul_(2)
        average.update(1)
        result = average.averages["weight"]
        assert isinstance(result, DTensor) and result.placements == (Shard(0),)
        torch.testing.assert_close(result.full_tensor(), whole * (2 - ema_beta(1, 0.1)))
    finally:
        distributed.destroy_process_group()


def test_learning_rate():
    """Up over the warm-up, down to the final part at the end; constant where nothing was asked for."""
    assert [lr_factor(step, 0, steps=5) for step in range(5)] == [1.0] * 5
    assert [lr_factor(step, 4, start=0.0, steps=8) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert [lr_factor(step, 0, final=0.5, steps=4) for step in range(5)] == [1, 0.875, 0.75, 0.625, 0.5]


def test_training_that_ends_within_its_warm_up():
    """As upstream's full recipe does: 2000 steps, 2500 of warm-up."""
    assert lr_factor(1999, 2500, steps=2000) == pytest.approx(0.7996, abs=1e-4)
    assert lr_factor(4, 4, final=0.1, steps=4) == 1.0


def test_swapping_twice_leaves_all_as_it_was():
    parameter = nn.Parameter(torch.randn(5, generator=torch.Generator().manual_seed(0)))
    average = PowerEMA({"weight": parameter}, 0.1)
    start = parameter.detach().clone()
    parameter.data += 1
    trained, here = parameter.detach().clone(), average.averages["weight"]
    average.swap()
    assert torch.equal(parameter, start) and torch.equal(here, trained)
    average.swap()
    assert torch.equal(parameter, trained) and torch.equal(here, start)
    assert average.averages["weight"] is here
