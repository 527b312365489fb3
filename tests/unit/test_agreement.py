"""What processes tell each other after the first step, without processes."""

import pytest
import torch
import torch.distributed as dist

from cosmos_forge import ForgeError
from cosmos_forge.training.agreement import check_agreement
from cosmos_forge.types import World


def told(monkeypatch, data_ranks, losses, gradients, norms) -> str:
    """What the last of several processes finds, each with its loss, gradient and norm."""
    everyone = []

    def gather(found, mine):
        everyone.append(mine)
        found[: len(everyone)] = everyone
        found[len(everyone) :] = [everyone[-1]] * (len(found) - len(everyone))

    monkeypatch.setattr(dist, "all_gather_object", gather)
    size = len(losses)
    for rank in range(size):
        parameter = torch.nn.Parameter(torch.zeros(3))
        parameter.grad = torch.tensor(gradients[rank])
        world = World(rank, size, data_ranks[rank], max(data_ranks) + 1)
        said = check_agreement(world, [torch.tensor(losses[rank])], torch.tensor(norms[rank]), [parameter])
    return said


GRADIENT = [1.0, -2.0, 3.0]


def test_agreement(monkeypatch):
    said = told(monkeypatch, [0, 0, 1], [0.5, 0.5, 0.7], [GRADIENT] * 3, [2.0] * 3)
    assert said == "gradients agree across 3 processes"


def test_gradients_that_are_not_finite_agree(monkeypatch):
    assert told(monkeypatch, [0, 1], [0.5, 0.7], [[float("nan"), 0.0, 1.0]] * 2, [float("nan")] * 2)


@pytest.mark.parametrize(
    ("losses", "gradients", "norms", "what"),
    [
        ([0.5, 0.6], [GRADIENT] * 2, [2.0] * 2, "loss of group 0"),
        ([0.5, 0.5], [GRADIENT, [1.0, -2.0, 3.1]], [2.0] * 2, "gradients"),
        ([0.5, 0.5], [GRADIENT] * 2, [2.0, 2.1], "norm"),
    ],
)
def test_disagreement(monkeypatch, losses, gradients, norms, what):
    with pytest.raises(ForgeError, match=f"processes 0 and 1 disagree after the first step: {what}"):
        told(monkeypatch, [0, 0], losses, gradients, norms)
