"""The contracts of methods and of parallelism backends."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cosmos_forge.errors import ForgeError
from cosmos_forge.testing.contract import Contract
from cosmos_forge.testing.fakes import TinyNet, build, make_context
from cosmos_forge.testing.processes import MethodTable, run, train


class MethodContract(Contract):
    """Options must fit `net`, a TinyNet unless overridden. tolerance: between the adapted network and the merged one.
    misfit: options that match nothing in `net`, if the method has such."""

    kind = "method"
    optional = ("trained",)
    tolerance: float = 1e-5
    misfit: dict[str, Any] | None = None

    def net(self) -> nn.Module:
        """A fresh network, always with the same weights."""
        return TinyNet()

    def input(self) -> Tensor:
        """What the network is called on."""
        return torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))

    def trained(self, method: Any) -> nn.Module:
        """An adapted network after a few optimizer steps."""
        net = self.net()
        method.adapt(net)
        optimizer = torch.optim.AdamW(method.trainable(net).values(), lr=0.05)
        for _ in range(3):
            net(self.input()).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return net

    def test_adapting_says_what_it_did(self, tmp_path: Path) -> None:
        said = self.make(tmp_path).adapt(self.net())
        assert isinstance(said, str) and any(letter.isdigit() for letter in said), (
            f"`adapt` must return a line with counts that prove it took hold, got {said!r}"
        )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_adapting_changes_no_output(self, tmp_path: Path, dtype: torch.dtype) -> None:
        net = self.net().to(dtype)
        before = net(self.input())
        self.make(tmp_path).adapt(net)
        after = net(self.input())
        assert after.dtype == dtype, f"a network in {dtype} gives {after.dtype} once adapted"
        assert torch.equal(before, after), "outputs must stay what they were until the first step"

    def test_adapting_is_repeatable(self, tmp_path: Path) -> None:
        first, second = self.net(), self.net()
        self.make(tmp_path).adapt(first)
        torch.manual_seed(12345)  # the global generator must not matter
        self.make(tmp_path).adapt(second)
        for name, value in first.state_dict().items():
            assert torch.equal(value, second.state_dict()[name]), (
                f"`{name}` differs: draw from a generator of context.seed"
            )

    def test_trainable_is_what_trains(self, tmp_path: Path) -> None:
        method, net = self.make(tmp_path), self.net()
        method.adapt(net)
        trainable, named = method.trainable(net), dict(net.named_parameters())
        assert trainable, "nothing is trainable"
        assert all(named.get(name) is value for name, value in trainable.items()), (
            "names must be net.named_parameters()'"
        )
        trains = {name for name, value in named.items() if value.requires_grad}
        assert trains == set(trainable), f"requires_grad must be set on exactly these; wrong: {trains ^ set(trainable)}"

    def test_training_changes_only_what_is_trainable(self, tmp_path: Path) -> None:
        method, start = self.make(tmp_path), self.net()
        method.adapt(start)
        trained = self.trained(method)
        names = method.trainable(trained)
        changed = {n for n, value in trained.named_parameters() if not torch.equal(value, start.get_parameter(n))}
        assert changed and changed <= set(names), f"frozen weights changed: {sorted(changed - set(names))}"

    def test_merged_equals_adapted(self, tmp_path: Path) -> None:
        method, base = self.make(tmp_path), self.net()
        trained = self.trained(method)
        result = method.result(method.trainable(trained))
        assert not any(value.requires_grad for value in result.tensors.values()), "a result's tensors must be detached"
        merged = self.make(tmp_path).merge(base.state_dict(), result.tensors)
        plain = {name: value.shape for name, value in base.state_dict().items()}
        assert {name: value.shape for name, value in merged.items()} == plain, (
            "merged weights must have the base's names"
        )
        base.load_state_dict(merged)
        with torch.no_grad():
            far = (base(self.input()) - trained(self.input())).abs().max().item()
            moved = (self.net()(self.input()) - trained(self.input())).abs().max().item()
        assert moved > 100 * self.tolerance, "training moved nothing, so there was nothing to compare"
        assert far <= self.tolerance, f"the merged network differs from the adapted one by {far:.2g}"

    def test_merging_leaves_the_base_alone(self, tmp_path: Path) -> None:
        method, base = self.make(tmp_path), self.net().bfloat16().state_dict()
        kept = copy.deepcopy(base)
        merged = method.merge(base, method.result(method.trainable(self.trained(method))).tensors)
        assert all(torch.equal(value, base[name]) for name, value in kept.items()), "`merge` changed the base in place"
        assert {value.dtype for value in merged.values()} == {torch.bfloat16}, (
            "merged weights must have the base's dtype"
        )

    def test_misfit_is_an_error(self, tmp_path: Path) -> None:
        if self.misfit is None:
            pytest.skip("`misfit` is None: this method has no options that could match nothing")
        method = build(self.kind, self.use, self.misfit, make_context(tmp_path))
        with pytest.raises(ForgeError) as raised:
            method.adapt(self.net())
        assert raised.value.problems[0].fix, "the error must say how to mend it"

    def test_changes_are_what_merging_does(self, tmp_path: Path) -> None:
        method, base = self.adding(tmp_path), self.net().state_dict()
        result = method.result(method.trainable(self.trained(method))).tensors
        merged, changes = method.merge(base, result), method.changes(result)
        changed = {name for name, value in base.items() if not torch.equal(merged[name], value)}
        assert set(changes) == changed, f"`changes` and `merge` change different weights: {changed ^ set(changes)}"
        for name, change in changes.items():
            far = (base[name] + change(base[name]) - merged[name]).abs().max().item()
            assert far <= self.tolerance, f"`{name}` with its change differs from the merged one by {far:.2g}"

    def test_reads_what_it_leaves(self, tmp_path: Path) -> None:
        method, base, folder = self.adding(tmp_path), self.net().state_dict(), tmp_path / "left"
        folder.mkdir()
        reads: Any = self.registration().options.reads  # type: ignore[attr-defined]
        assert not reads(folder), "`reads` says that an empty folder holds a result"
        result = method.result(method.trainable(self.trained(method)))
        save_file(result.tensors, folder / f"{result.name}.safetensors")
        for name, text in result.texts.items():
            (folder / name).write_text(text)
        assert reads(folder), "`reads` does not know a folder with what the method left"
        plain: Any = build(self.kind, self.use, {}, make_context(tmp_path))
        merged, found = method.merge(base, result.tensors), plain.merge(base, plain.read(folder, str))
        for name, value in merged.items():
            far = (found[name] - value).abs().max().item()
            assert far <= self.tolerance, f"`{name}` read from a file, with default options, is off by {far:.2g}"

    def adding(self, tmp_path: Path) -> Any:
        """The method, if its results can be added to networks."""
        method = self.make(tmp_path)
        if not hasattr(method, "changes"):
            pytest.skip("no `changes`: this method's results are not added to networks")
        return method


class ParallelismContract(Contract):
    """counts: how many processes to try. methods: names and options of fine-tuning methods to train TinyNet with."""

    kind = "parallelism"
    optional = ("team",)
    counts: tuple[int, ...] = (1, 2)
    methods: MethodTable = ((None, {}),)

    def test_processes(self, tmp_path: Path) -> None:
        options = self.read_options(tmp_path)
        assert options.processes(0) >= 1, "a machine without GPUs gets one process or more"
        assert 1 <= options.processes(8) <= 8, "eight GPUs are enough for eight processes"

    def test_numbers_are_those_of_one_process(self, tmp_path: Path) -> None:
        plain = [train(None, method, values) for method, values in self.methods]
        for count in self.counts:
            results = run(count, self.use, self.make_options(tmp_path), self.methods, tmp_path / f"{count}-processes")
            for expected, result, (method, _) in zip(plain, results, self.methods, strict=True):
                for name, value in expected.items():
                    assert name in result, f"{count} processes, method {method}: no `{name}`; are names as they were?"
                    far = ((result[name] - value).abs().max() / value.abs().max().clamp(min=1)).item()
                    assert far < 1e-5, (
                        f"{count} processes, method {method}: `{name}` differs from one process's by {far:.2g}"
                    )
