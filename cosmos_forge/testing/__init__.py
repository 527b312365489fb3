"""Contract tests and tiny fakes for authors of plugins. Needs pytest.

One class a kind of component. Inherit it in a test file, say which component and with which options, and pytest does
the rest:

    from cosmos_forge.testing import SamplerContract

    class TestMidpoint(SamplerContract):
        use = "midpoint"
        options = {"steps": 20}
        order = 2

Options that need files are made by overriding `make_options(self, tmp_path)`. Everything runs on the CPU.
"""

from cosmos_forge.testing.contract import Contract
from cosmos_forge.testing.data import DatasetContract, LatentTokenizerContract, TextEncoderContract
from cosmos_forge.testing.fakes import TinyNet, make_context
from cosmos_forge.testing.guard import GuardrailContract, PromptUpsamplerContract
from cosmos_forge.testing.logger import LoggerContract
from cosmos_forge.testing.model import ModelContract
from cosmos_forge.testing.sampler import SamplerContract
from cosmos_forge.testing.training import MethodContract, ParallelismContract

__all__ = [
    "Contract",
    "DatasetContract",
    "GuardrailContract",
    "LatentTokenizerContract",
    "LoggerContract",
    "MethodContract",
    "ModelContract",
    "ParallelismContract",
    "PromptUpsamplerContract",
    "SamplerContract",
    "TextEncoderContract",
    "TinyNet",
    "make_context",
]
