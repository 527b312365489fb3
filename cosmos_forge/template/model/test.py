"""What holds for every model, of `new-plugin`; the package has to be installed (`pip install -e .`)."""

from cosmos_forge.testing import ModelContract


class TestNewPlugin(ModelContract):
    use = "new-plugin"
    options = {"width": 16, "num_blocks": 2}
    latents = (16, 3, 8, 8)
    text = (8, 64)
