"""What holds for every parallelism, of `new-plugin`; the package has to be installed (`pip install -e .`)."""

from cosmos_forge.testing import ParallelismContract


class TestNewPlugin(ParallelismContract):
    use = "new-plugin"
    counts = (1, 2)  # processes; the numbers must be those of one
