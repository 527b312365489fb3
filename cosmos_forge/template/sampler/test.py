"""What holds for every sampler, of `new-plugin`; the package has to be installed (`pip install -e .`)."""

from cosmos_forge.testing import SamplerContract


class TestNewPlugin(SamplerContract):
    use = "new-plugin"
    options = {"steps": 20}
    order = 2  # at twice the steps, a quarter of the error
