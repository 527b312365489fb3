"""The skeletons of `forge new`, broken on purpose: what their contracts say to their authors."""

import importlib.util
import inspect
import sys
from types import ModuleType

import pytest
import torch

from cosmos_forge import new
from cosmos_forge.plugins import Source, load_plugins
from cosmos_forge.testing import contract, fakes
from cosmos_forge.types import Clip, Loss


@pytest.fixture
def skeleton(monkeypatch):
    """Gives the skeleton's contract class and component class by kind, installed under the name of the template."""

    def load(kind):
        package = ModuleType("new_plugin")
        package.__path__ = [str(new.TEMPLATE / kind)]
        monkeypatch.setitem(sys.modules, "new_plugin", package)
        for name in ("plugin", "network", kind, "test"):
            path = new.TEMPLATE / kind / f"{name}.py"
            if path.exists():
                spec = importlib.util.spec_from_file_location(f"new_plugin.{name}", path)
                module = importlib.util.module_from_spec(spec)
                monkeypatch.setitem(sys.modules, spec.name, module)
                spec.loader.exec_module(module)
        source = Source("mine", "mine", "1", lambda: sys.modules["new_plugin.plugin"])
        for user in (contract, fakes):
            monkeypatch.setattr(user, "load_plugins", lambda: load_plugins([source]))
        return sys.modules["new_plugin.test"].TestNewPlugin, sys.modules[f"new_plugin.{kind}"].NewPlugin

    return load


# What takes the place of a method; one with a single parameter gets the method that was there.


def floating(dataset, index):
    return Clip(dataset.key(index), torch.zeros(3, 9, 16, 32), 24.0, dataset.caption(index))


def backwards(encode):
    return lambda tokenizer, video: encode(tokenizer, video).flip(2)


def halved(encode):
    return lambda tokenizer, video: encode(tokenizer, video).half()


def restless(loss):
    return lambda model, batch, generators, sigma=None: Loss(
        loss(model, batch, [torch.Generator().manual_seed(g.initial_seed()) for g in generators], sigma).total
        + torch.rand(())
    )


def unguided(denoiser):
    return lambda model, condition, guidance, *rest: denoiser(model, condition, 0.0, *rest)


def painting(rail, frames):
    return frames.fill_(0)


CASES = {
    "frames of another dtype": ("dataset", {"__getitem__": floating}, "clips_are_as_promised", "frames must be uint8"),
    "another caption": (
        "dataset",
        {"caption": lambda dataset, index: f"{torch.rand(())}"},
        "keys_are_unique_and_stable",
        "`caption(i)` must be the caption of `[i]`",
    ),
    "no fingerprint": (
        "dataset",
        {"fingerprint": None},
        "has_what_its_kind_asks_for",
        "NewPlugin has no `fingerprint`; `Dataset` in cosmos_forge/kinds.py says what is asked for",
    ),
    "latents that look ahead": (
        "latent_tokenizer",
        {"encode": backwards},
        "is_causal",
        "latents of the first 1 frames must begin the clip's latents",
    ),
    "latents of another dtype": (
        "latent_tokenizer",
        {"encode": halved},
        "latents_have_the_promised_shape",
        "latents must be in the context's dtype",
    ),
    "a loss of its own randomness": (
        "model",
        {"loss": restless},
        "loss_is_repeatable",
        "the same generators must give the same loss",
    ),
    "guidance that is not taken": ("model", {"denoiser": unguided}, "guidance_is_linear", "guidance changes nothing"),
    "a method that keeps quiet": (
        "method",
        {"adapt": lambda method, net: None},
        "adapting_says_what_it_did",
        "`adapt` must return a line with counts",
    ),
    "a sampler without sample": (
        "sampler",
        {"sample": None},
        "has_what_its_kind_asks_for",
        "NewPlugin has no `sample`; `Sampler` in",
    ),
    "a component without a context": (
        "prompt_upsampler",
        {"__init__": lambda upsampler, options, more, still: None},
        "build_resolves",
        "NewPlugin': it is called with (options, context): missing a required argument",
    ),
    "a logger that answers": (
        "logger",
        {"on_event": lambda logger, stamped: "thanks"},
        "takes_every_event",
        "on_event returns nothing",
    ),
    "a guardrail that paints": (
        "guardrail",
        {"check_frames": painting},
        "frames",
        "check_frames must leave the frames it gets as they are",
    ),
    "an empty prompt": (
        "prompt_upsampler",
        {"upsample": lambda upsampler, prompt, frame: ""},
        "gives_a_prompt",
        "upsample('a robot arm lifts a red cup', frame) gives text, got ''",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_broken_is_told(case, skeleton, tmp_path, monkeypatch):
    kind, changes, test, said = CASES[case]
    suite, component = skeleton(kind)
    run(suite, f"test_{test}", tmp_path / "right")
    for name, change in changes.items():
        if change is None:
            monkeypatch.delattr(component, name)
        else:
            wraps = len(inspect.signature(change).parameters) == 1
            monkeypatch.setattr(component, name, change(getattr(component, name)) if wraps else change)
    with pytest.raises(AssertionError) as raised:
        run(suite, f"test_{test}", tmp_path / "wrong")
    assert said in str(raised.value)


def test_a_module_that_cannot_be_imported_is_told(skeleton, monkeypatch):
    suite, _ = skeleton("sampler")
    monkeypatch.setitem(sys.modules, "new_plugin.sampler", None)
    with pytest.raises(AssertionError, match=r"build='new_plugin\.sampler:NewPlugin': .* cannot be imported"):
        suite().test_build_resolves()


def run(suite, name, folder):
    """One test of a contract, with the arguments that pytest would give it."""
    folder.mkdir()
    test = getattr(suite(), name)
    arguments = {"tmp_path": folder, "frames": 1}
    test(**{each: value for each, value in arguments.items() if each in inspect.signature(test).parameters})
