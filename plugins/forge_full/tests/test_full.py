"""The method `full` against its contract."""

import torch

from cosmos_forge.testing import MethodContract, TinyNet, make_context
from forge_full.full import Full
from forge_full.plugin import FullOptions


class TestFull(MethodContract):
    use = "full"


def test_result_is_the_whole_network(tmp_path):
    method, net = Full(FullOptions(), make_context(tmp_path)), TinyNet()
    result = method.result(method.trainable(net))
    assert result.name == "model" and set(result.tensors) == set(net.state_dict())
    assert method.adapt(net) == f"all {sum(value.numel() for value in net.state_dict().values()):,} parameters train"


def test_what_the_model_freezes_does_not_train(tmp_path):
    method, net = Full(FullOptions(), make_context(tmp_path)), TinyNet()
    frozen = next(iter(dict(net.named_parameters())))
    net.get_parameter(frozen).requires_grad_(False)
    assert method.trainable(net).keys() == dict(net.named_parameters()).keys() - {frozen}
    assert " of " in method.adapt(net) and not net.get_parameter(frozen).requires_grad


def test_buffers_come_from_the_base(tmp_path):
    """Merging keeps what never trains, such as tables that are part of the published weights."""
    method = Full(FullOptions(), make_context(tmp_path))
    merged = method.merge({"a": torch.zeros(2), "table": torch.ones(2)}, {"a": torch.full((2,), 5.0)})
    assert merged["a"].tolist() == [5, 5] and merged["table"].tolist() == [1, 1]
