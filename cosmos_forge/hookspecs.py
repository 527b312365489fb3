"""The hooks a plugin may implement: one a kind of component, and one for commands.

A plugin is an installed package with an entry point in the group `cosmos_forge` whose value is a module holding
functions marked `@hookimpl`. Each receives `register` and calls it once for every component it offers:

    @hookimpl
    def register_samplers(register):
        register("midpoint", options=MidpointOptions, build="forge_midpoint.midpoint:Midpoint")

`name` is what a recipe writes after `use =`; `options` is a subclass of `cosmos_forge.Options`; `build` is an import
string, called in a worker process (a logger's: in that of `forge`) with `(options, context)`, so that registering stays
light: this module and the ones that implement it must not import torch. Hooks run once, in the process of every
command, when plugins are loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pluggy

if TYPE_CHECKING:
    from cosmos_forge.options import Options

hookspec = pluggy.HookspecMarker("cosmos_forge")
hookimpl = pluggy.HookimplMarker("cosmos_forge")


class Register(Protocol):
    """Offers one component of the hook's kind: name in recipes, class of its options, import string of its factory."""

    def __call__(self, name: str, *, options: type[Options], build: str) -> None: ...


class RegisterCommand(Protocol):
    """Offers one command of `forge`: its name, a line of help, and import string of the function behind it."""

    def __call__(self, name: str, *, help: str, run: str) -> None: ...


@hookspec
def register_models(register: Register) -> None:
    """Offer models: video diffusion networks with their loss and denoiser.

    Objects satisfy `kinds.Model`; built in the workers of `train`, `export` and `generate`.
    Example: forge_cosmos1. Contract: `testing.ModelContract`.
    """


@hookspec
def register_datasets(register: Register) -> None:
    """Offer datasets: clips of video with captions.

    Objects satisfy `kinds.Dataset`; built in the workers of `prepare` and, for held-out clips, `train` and `generate`.
    Example: forge_video_folder. Contract: `testing.DatasetContract`.
    """


@hookspec
def register_latent_tokenizers(register: Register) -> None:
    """Offer latent tokenizers: video to latents and back, causal in time.

    Objects satisfy `kinds.LatentTokenizer`; built in the workers of `prepare`, of `generate` and, for sample videos, of
    `train`.
    Example: forge_toy. Contract: `testing.LatentTokenizerContract`.
    """


@hookspec
def register_text_encoders(register: Register) -> None:
    """Offer text encoders: prompts to token embeddings.

    Objects satisfy `kinds.TextEncoder`; built in the workers of `prepare` and `generate`.
    Example: forge_t5. Contract: `testing.TextEncoderContract`.
    """


@hookspec
def register_methods(register: Register) -> None:
    """Offer fine-tuning methods: which parameters train, and what is kept of them.

    Objects satisfy `kinds.Method`; built in the workers of `train` and `export`, after the weights are loaded and
    before the network is spread over processes, and wherever what was trained is put into weights.
    Example: forge_full. Contract: `testing.MethodContract`.
    """


@hookspec
def register_parallelisms(register: Register) -> None:
    """Offer parallelism backends: how processes share a training step.

    Objects satisfy `kinds.Parallelism`, their options `kinds.ParallelismOptions`; built first in every worker.
    Example: forge_parallel. Contract: `testing.ParallelismContract`.
    """


@hookspec
def register_samplers(register: Register) -> None:
    """Offer samplers: ways to walk latents from noise to a clean video.

    Objects satisfy `kinds.Sampler`; built in the workers of `generate` and, for sample videos, `train`.
    Example: forge_samplers. Contract: `testing.SamplerContract`.
    """


@hookspec
def register_prompt_upsamplers(register: Register) -> None:
    """Offer prompt upsamplers: a person's prompt and the frame a video starts from to the prompt that is used.

    Objects satisfy `kinds.PromptUpsampler`; built in the first worker of `generate`, before the text encoder.
    Example: forge_upsample. Contract: `testing.PromptUpsamplerContract`.
    """


@hookspec
def register_guardrails(register: Register) -> None:
    """Offer guardrails: what may refuse a prompt, or refuse or change the frames of a video before it is written.

    Objects satisfy `kinds.Guardrail`, their options `kinds.GuardrailOptions`; built in the workers of `generate`, each
    by itself and only while it is asked. A recipe may have several: `[guardrail.NAME]`.
    Example: forge_guardrails. Contract: `testing.GuardrailContract`.
    """


@hookspec
def register_loggers(register: Register) -> None:
    """Offer loggers: what carries a run's events elsewhere.

    Objects satisfy `kinds.Logger`; built in the process of `forge`, where there is no torch, with a `LoggerContext`.
    A recipe may have several: `[logger.NAME]`. Example: forge_csv. Contract: `testing.LoggerContract`.
    """


@hookspec
def register_commands(register: RegisterCommand) -> None:
    """Offer commands: what is done by hand, beside the stages.

    `run` is called in the process of `forge`, with arguments and options as typer reads them off its signature; its
    module is imported when the command or its help is asked for. A ForgeError ends with exit code 2. Forge's own
    commands cannot be replaced. Example: forge_cosmos1 (`forge convert`).
    """
