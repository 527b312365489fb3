"""What a CPU cannot show: the same bits on a GPU where that is asked for, and GPUs that train what one trains."""

import pytest
import torch

pytestmark = pytest.mark.gpu
COUNT = torch.cuda.device_count()
GPU = ["device=cuda", "train.save_every=12", "train.log_every=1"]
EXACT = [*GPU, 'stages=["prepare","train","export"]', "precision=bf16", "compile=blocks", "train.deterministic=true"]
WAYS = {
    "ddp": ["parallelism.use=ddp"],
    "fsdp": ["parallelism.use=fsdp", "train.micro_batch_size=1"],
    "context": ["parallelism.use=ddp", "parallelism.context=2"],
}


def run(workplace, name, *overrides, gpus=1, accept=()):
    return workplace.forge(*workplace.command(name, *overrides), *accept, FORGE_GPUS=str(gpus))


@pytest.mark.skipif(COUNT < 1, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("method", [["method.use=full"], ["method.use=lora", "method.rank=4"]])
@pytest.mark.parametrize("state", ["fp32", "8bit"])
def test_a_run_that_goes_on_has_the_bits_of_one_that_went_through(workplace, method, state):
    name, settings = f"{method[0][-4:]}-{state}", [*EXACT, *method, f"train.optimizer_state={state}"]
    run(workplace, f"{name}-through", *settings, "train.steps=24")
    run(workplace, f"{name}-halved", *settings, "train.steps=12")
    said = run(workplace, f"{name}-halved", *settings, "train.steps=24", accept=["--continue"])
    assert "goes on after step 12" in said
    through, halved = (workplace.losses(f"{name}-{which}") for which in ("through", "halved"))
    assert len(through) == 24 and halved == through
    assert workplace.weights(f"{name}-halved") == workplace.weights(f"{name}-through")


@pytest.mark.skipif(COUNT < 2, reason="needs two NVIDIA GPUs")
@pytest.mark.parametrize("way", WAYS)
def test_two_gpus_train_what_one_trains(workplace, way):
    """In float32, to rounding."""
    settings = [*GPU, 'stages=["prepare","train"]', "compile=none", "train.steps=6"]
    if not workplace.of("alone").exists():
        run(workplace, "alone", *settings)
    assert "agree" in run(workplace, way, *settings, *WAYS[way], "parallelism.num_processes=2", gpus=2)
    alone, together = workplace.losses("alone"), workplace.losses(way)
    assert len(alone) == 6 and together.keys() == alone.keys()
    for step, (loss, metrics, _, grad_norm) in alone.items():
        assert together[step][0] == pytest.approx(loss, rel=1e-4), step
        assert together[step][1] == pytest.approx(metrics, rel=1e-4), step
        assert together[step][3] == pytest.approx(grad_norm, rel=1e-3), step
