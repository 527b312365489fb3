"""Videos that training makes of held-out clips as it goes: the same ones each time, so that progress can be seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from safetensors.torch import load_file
from torch import Tensor

from cosmos_forge import events, video
from cosmos_forge.checks.validation import why_no_samples
from cosmos_forge.generation import outputs, sheet
from cosmos_forge.generation.judge import compare
from cosmos_forge.generation.sampling import frames, solve
from cosmos_forge.kinds import Dataset, LatentTokenizer, Model, Sampler
from cosmos_forge.run import Run
from cosmos_forge.stages.prepare import Cache
from cosmos_forge.training import checkpoint
from cosmos_forge.training.data import PreparedClip, load_batch, pad_text, to_device
from cosmos_forge.training.groups import from_all, leads, turns
from cosmos_forge.types import Condition, Context, TextEmbedding
from cosmos_forge.worker import component

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


def find_samples(plan: Plan, run: Run, context: Context, held_out: Sequence[PreparedClip]) -> Samples | None:
    """The first held-out clips of the largest size; None, and a note that says why, where no videos can be made."""
    why = why_no_samples(plan)
    if not why:
        shape = plan.options("latent_tokenizer").latent_shape(*plan.clip_size)
        held_out = [clip for clip in held_out if tuple(clip.shape) == tuple(shape)]
        why = "" if held_out else f"no held-out clip has the largest size, {'x'.join(map(str, plan.clip_size))}"
    if why:
        context.emit(events.Note(f"validation makes no videos: {why}"))
        return None
    return Samples(plan, run, context, held_out[: plan.train.validate_samples])


class Samples:
    """Continues `clips` as `generate` does, one in each group of processes at a time."""

    def __init__(self, plan: Plan, run: Run, context: Context, clips: Sequence[PreparedClip]) -> None:
        self.plan, self.run, self.context, self.clips = plan, run, context, clips
        self.given = plan.generate.given_frames
        self.sampler: Sampler = component(plan, "sampler", context)
        self.dataset: Dataset = component(plan, "dataset", context)
        self.places = {self.dataset.key(index): index for index in range(len(self.dataset))}
        self.negative = self._negative_text()

    def make(self, step: int, model: Model) -> tuple[dict[str, float], str]:
        """Leaves `samples/step-../` with an MP4 each and a contact sheet. Returns means of how good the videos are, and
        the sheet's path within the run. The network must be ready to be judged."""
        folder, world = self.run.samples / checkpoint.folder_of(step), self.context.world
        latents = {turn: self._continue(model, turn) for turn in turns(len(self.clips), world)}
        mine = {turn: each for turn, each in latents.items() if turn < len(self.clips) and leads(world)}
        measured = {}
        for turn, frames_CTHW in self._decode(mine):
            clip = self.clips[turn]
            video.write_mp4(outputs.THWC(frames_CTHW), clip.fps, _file(folder, clip))
            measured[turn] = compare(frames_CTHW, self._truth(clip), self.given)
        records = from_all(measured, world)
        picture = folder / "contact-sheet.png"
        if world.rank == 0:
            sheet.contact_sheet([row for clip in self.clips for row in self._rows(clip, _file(folder, clip))], picture)
        metrics = {name: fmean(record[name] for record in records) for name in records[0]}
        return metrics, str(picture.relative_to(self.run.folder))

    def _continue(self, model: Model, turn: int) -> Tensor:
        """Latents of a video that begins as a clip does, on the CPU."""
        options, device, total = self.plan.generate, self.context.device, len(self.clips)
        clip, steps = self.clips[turn % total], self.plan.options("sampler").steps
        batch = to_device(load_batch([clip], self.plan.max_tokens), device)
        _, height, width = self.plan.clip_size
        _, given, *_ = self.plan.options("latent_tokenizer").latent_shape(self.given, height, width)
        known_BCTHW = batch.latents_BCTHW.float()
        known_BCTHW[:, :, given:] = 0  # so that nothing of the truth can reach the network
        condition = Condition(known_BCTHW, given, batch.text, self.negative, batch.fps_B, options.seed)

        def on_step(step: int) -> None:
            done = turn + min(step / steps, 1.0)
            if done < total:
                self.context.emit(events.Progress("sample videos", done, total, "videos"))

        denoise = model.denoiser(condition, options.guidance)
        x0_BCTHW = solve(self.sampler, denoise, condition, options.seed, clip.key, on_step)
        return (x0_BCTHW / model.sigma_data).cpu()

    def _decode(self, latents: Mapping[int, Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Frames of each, uint8 CTHW."""
        if latents:
            tokenizer: LatentTokenizer = component(self.plan, "latent_tokenizer", self.context)
            for turn, each in latents.items():
                yield turn, frames(tokenizer, each.to(self.context.device))

    def _truth(self, clip: PreparedClip) -> Tensor:
        """What really happened, uint8 CTHW."""
        return self.dataset[self.places[clip.key]].frames_CTHW

    def _rows(self, clip: PreparedClip, path: Path) -> list[sheet.Row]:
        """Of the contact sheet: what was given, made and true."""
        truth_THWC = outputs.THWC(self._truth(clip))
        return [
            sheet.row(f"{clip.key}: given", truth_THWC[: self.given], self.given),
            sheet.row_of_file(f"{clip.key}: generated", path, self.given),
            sheet.row(f"{clip.key}: truth", truth_THWC, self.given),
        ]

    def _negative_text(self) -> TextEmbedding | None:
        """What guidance leads away from, if `prepare` has encoded it; else the null text, and a note."""
        options, context = self.plan.generate, self.context
        if not options.guidance or not options.negative_prompt:
            return None
        path = Cache(self.plan, context, "text_encoder").path(options.negative_prompt)
        if not path.exists():
            context.emit(
                events.Note(
                    "sample videos are led away from no text instead of generate.negative_prompt, which `prepare` "
                    "encodes where train.validate_every was set before it ran"
                )
            )
            return None
        text = pad_text(load_file(path)["tokens"].float(), self.plan.max_tokens)
        return text.each(lambda tensor: tensor.to(context.device))


def _file(folder: Path, clip: PreparedClip) -> Path:
    return folder / f"{outputs.file_name(clip.key)}.mp4"
