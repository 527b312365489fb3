"""What holds for every latent tokenizer, of `new-plugin`; the package has to be installed (`pip install -e .`)."""

from cosmos_forge.testing import LatentTokenizerContract


class TestNewPlugin(LatentTokenizerContract):
    use = "new-plugin"
    psnr = 80.0  # dB after the round trip; nothing is lost but rounding
