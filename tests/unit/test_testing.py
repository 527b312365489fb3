"""The contract tests themselves: each lets a right component pass and tells what is wrong with a wrong one."""

import contextlib
import inspect
import sys
from itertools import pairwise
from types import ModuleType
from typing import ClassVar

import pytest
import torch
from pydantic import Field

from cosmos_forge import Options, hookimpl
from cosmos_forge import testing as contracts
from cosmos_forge.plugins import KINDS, Source, load_plugins
from cosmos_forge.testing import contract, fakes
from cosmos_forge.types import Clip, Refusal, Result, TextEmbedding


class Counted(Options):
    """A component of these tests."""

    num_frames: int = Field(9, description="frames")
    height: int = Field(16, description="pixels")
    width: int = Field(16, description="pixels, or numbers a token")
    max_tokens: int = Field(4, description="tokens")
    steps: int = Field(30, description="steps")
    evaluations: int = Field(30, description="calls of the denoiser")
    looks_at: ClassVar[tuple[str, ...]] = ("prompt", "frames")


class Undescribed(Options):
    """A component of these tests."""

    steps: int = 3


class Base:
    """Any component."""

    rejected = ()

    def __init__(self, options, context):
        self.options = options


class Dataset(Base):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        frames = torch.randint(0, 256, (3, 9, 16, 16), generator=generator, dtype=torch.uint8)
        return Clip(self.key(index), frames, 24.0, "words")

    def key(self, index):
        return f"clip{index}"

    def caption(self, index):
        return "words"

    def fingerprint(self, index):
        return f"print{index}"


class Restless(Dataset):
    def __getitem__(self, index):
        return Clip(self.key(index), torch.randint(0, 256, (3, 9, 16, 16), dtype=torch.uint8), 24.0, "words")


class Clingy(Dataset):
    def __init__(self, options, context):
        self.context = context


class Twins(Dataset):
    def key(self, index):
        return "clip"


class Encoder(Base):
    padding, blend = 0.0, 0.0

    def encode(self, prompts):
        lengths = torch.tensor([min(len(prompt.split()) + 1, 4) for prompt in prompts])
        mask_BL = torch.arange(4) < lengths[:, None]
        values = torch.tensor([float(len(prompt)) for prompt in prompts]) + self.blend * len(prompts)
        tokens_BLD = values.view(-1, 1, 1).expand(-1, 4, 16)
        return TextEmbedding(tokens_BLD.masked_fill(~mask_BL[..., None], self.padding), mask_BL)


class Unmasked(Encoder):
    padding = 1.0


class Sociable(Encoder):
    blend = 1.0


class Sampler(Base):
    steps = 30

    def sample(self, denoise, noise_BCTHW, generator=None, on_step=None):
        sigmas = [80 * 0.72**step for step in range(30)] + [0.0]
        x_BCTHW = noise_BCTHW * sigmas[0]
        for step, (sigma, lower) in enumerate(pairwise(sigmas[: self.steps + 1]), 1):
            x0_BCTHW = denoise(x_BCTHW, torch.full((len(x_BCTHW),), sigma))
            x_BCTHW = x0_BCTHW + lower / sigma * (x_BCTHW - x0_BCTHW)
            if on_step:
                on_step(step)
        return x_BCTHW


class Unfinished(Sampler):
    steps = 15


class Extra(Sampler):
    def sample(self, denoise, noise_BCTHW, generator=None, on_step=None):
        denoise(noise_BCTHW, torch.ones(len(noise_BCTHW)))
        return super().sample(denoise, noise_BCTHW, generator, None)


class Method(Base):
    """Trains the head alone."""

    def adapt(self, net):
        return "1 layer"

    def trainable(self, net):
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name.startswith("head."))
        return {name: value for name, value in net.named_parameters() if value.requires_grad}

    def result(self, state):
        return Result("head", {name: value.detach() for name, value in state.items()})

    def merge(self, base, result):
        return {name: result[name].to(value.dtype) if name in result else value for name, value in base.items()}


class Forgetful(Method):
    def merge(self, base, result):
        return dict(base)


class Leaky(Method):
    def trainable(self, net):
        super().trainable(net)
        return {"head.weight": net.head.weight}


class Loud(Method):
    def adapt(self, net):
        net.head.weight.data.mul_(1.01)
        return "1 layer"


class Guard(Base):
    """Refuses knives; leaves frames as they are."""

    def check_prompt(self, prompt):
        return Refusal("weapons") if "knife" in prompt else None

    def check_frames(self, frames_CTHW):
        return frames_CTHW


class Nameless(Guard):
    def check_prompt(self, prompt):
        return Refusal("") if "knife" in prompt else None


class Careless(Guard):
    def check_prompt(self, prompt):
        return None

    def check_frames(self, frames_CTHW):
        return frames_CTHW.mul_(0)


class Shortening(Guard):
    def check_frames(self, frames_CTHW):
        return frames_CTHW[:, 1:]


class Upsampler(Base):
    def upsample(self, prompt, frame_CHW):
        return f"{prompt}, slowly"


class Silent(Upsampler):
    def upsample(self, prompt, frame_CHW):
        return prompt


class Diary(Base):
    def on_event(self, stamped):
        pass

    def close(self):
        pass


HOOKS = {
    "register_datasets": (Dataset, Restless, Clingy, Twins),
    "register_text_encoders": (Encoder, Unmasked, Sociable),
    "register_samplers": (Sampler, Unfinished, Extra),
    "register_methods": (Method, Forgetful, Leaky, Loud),
    "register_guardrails": (Guard, Nameless, Careless, Shortening),
    "register_prompt_upsamplers": (Upsampler, Silent),
    "register_loggers": (Diary,),
}


@pytest.fixture(autouse=True)
def plugin(monkeypatch):
    """Registers the classes above under their names in lower case, and `bare` with options that say nothing."""
    module = ModuleType("these_components")
    for hook, classes in HOOKS.items():
        for cls in classes:
            cls.__module__ = module.__name__  # so that it is found, and pickled, under the name it is registered with
            setattr(module, cls.__name__, cls)
        setattr(module, hook, hookimpl(_hook(classes), specname=hook))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    source = Source("these", "these", "1", lambda: module)
    for user in (contract, fakes):
        monkeypatch.setattr(user, "load_plugins", lambda: load_plugins([source]))


def _hook(classes):
    def register_all(register):
        for cls in classes:
            register(cls.__name__.lower(), options=Counted, build=f"these_components:{cls.__name__}")
        register("bare", options=Undescribed, build="these_components:Nothing")

    return register_all


def run(suite, name, tmp_path):
    """One test of a contract, with the arguments that pytest would give it."""
    test = getattr(suite, name)
    arguments = {"tmp_path": tmp_path, "dtype": torch.float32, "frames": 9}
    test(**{name: value for name, value in arguments.items() if name in inspect.signature(test).parameters})


class Knives(contracts.GuardrailContract):
    refused = "throw a knife"


@pytest.mark.parametrize(
    ("base", "use"),
    [
        (contracts.DatasetContract, "dataset"),
        (contracts.TextEncoderContract, "encoder"),
        (contracts.SamplerContract, "sampler"),
        (contracts.MethodContract, "method"),
        (Knives, "guard"),
        (contracts.PromptUpsamplerContract, "upsampler"),
        (contracts.LoggerContract, "diary"),
    ],
)
def test_right_components_pass(base, use, tmp_path):
    suite = type("Suite", (base,), {"use": use})()
    # Not those that ask a process of its own, where these components are not installed.
    tests = [name for name in dir(suite) if name.startswith("test_") and not name.endswith("_is_light")]
    assert len(tests) >= 7
    for name in tests:
        with contextlib.suppress(pytest.skip.Exception):
            run(suite, name, tmp_path)


@pytest.mark.parametrize(
    ("base", "use", "test", "said"),
    [
        (
            contracts.DatasetContract,
            "restless",
            "test_same_index_same_clip",
            "the same index must give the same frames",
        ),
        (contracts.DatasetContract, "clingy", "test_is_picklable", "cannot keep its context"),
        (contracts.DatasetContract, "twins", "test_keys_are_unique_and_stable", "keys must be unique"),
        (contracts.TextEncoderContract, "unmasked", "test_padding_is_zero", "exactly zero where masked"),
        (contracts.TextEncoderContract, "sociable", "test_alone_as_in_company", "differs alone and in company by 2"),
        (contracts.SamplerContract, "unfinished", "test_result_is_distributed_as_the_data", "is all noise removed"),
        (contracts.SamplerContract, "extra", "test_counts_evaluations", "says 30, the denoiser was called 31x"),
        (contracts.SamplerContract, "extra", "test_reports_steps", "on_step must be called with 1, 2, .., got []"),
        (contracts.MethodContract, "forgetful", "test_merged_equals_adapted", "the merged network differs"),
        (contracts.MethodContract, "leaky", "test_trainable_is_what_trains", "wrong: {'head.bias'}"),
        (contracts.MethodContract, "loud", "test_adapting_changes_no_output", "outputs must stay what they were"),
        (Knives, "nameless", "test_prompts", "a Refusal names its category"),
        (Knives, "careless", "test_prompts", "'throw a knife' must be refused, got None"),
        (Knives, "careless", "test_frames", "must leave the frames it gets as they are"),
        (Knives, "shortening", "test_frames", "frames must be uint8 (3, 9, 48, 64), got torch.uint8 (3, 8, 48, 64)"),
        (contracts.PromptUpsamplerContract, "silent", "test_gives_a_prompt", "upsample('', frame) gives text, got ''"),
        (contracts.SamplerContract, "bare", "test_options_explain_themselves", "give ['steps'] a `Field("),
        (contracts.SamplerContract, "bare", "test_build_resolves", "has no callable `Nothing`"),
        (
            contracts.SamplerContract,
            "nowhere",
            "test_is_registered",
            "no installed plugin registers the sampler `nowhere`",
        ),
    ],
)
def test_wrong_components_are_told_why(base, use, test, said, tmp_path):
    with pytest.raises(AssertionError) as raised:
        run(type("Suite", (base,), {"use": use})(), test, tmp_path)
    assert said in str(raised.value)


def test_every_kind_has_a_contract():
    classes = [getattr(contracts, name) for name in contracts.__all__ if name.endswith("Contract")]
    assert {cls.kind for cls in classes if hasattr(cls, "kind")} == set(KINDS)
