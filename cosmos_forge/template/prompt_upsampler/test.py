"""What holds for every prompt upsampler, of `new-plugin`; the package has to be installed (`pip install -e .`)."""

from cosmos_forge.testing import PromptUpsamplerContract


class TestNewPlugin(PromptUpsamplerContract):
    use = "new-plugin"
