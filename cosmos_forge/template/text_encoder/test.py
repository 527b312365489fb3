"""What holds for every text encoder, of `new-plugin`; the package has to be installed (`pip install -e .`)."""

from cosmos_forge.testing import TextEncoderContract


class TestNewPlugin(TextEncoderContract):
    use = "new-plugin"
