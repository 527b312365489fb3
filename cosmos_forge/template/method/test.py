"""What holds for every method, of `new-plugin`; the package has to be installed (`pip install -e .`)."""

from cosmos_forge.testing import MethodContract


class TestNewPlugin(MethodContract):
    use = "new-plugin"
    misfit = {"match": ["no_such_layer*"]}
