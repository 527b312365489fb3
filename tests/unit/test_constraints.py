"""What constraints.txt pins can be installed on every Python that pyproject.toml admits."""

from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
LINES = (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
PINS = [Requirement(line) for line in LINES if line and not line.startswith("#")]


@pytest.mark.parametrize("pin", PINS, ids=lambda pin: pin.name)
def test_a_pinned_version_admits_every_python_that_it_is_pinned_for(pin):
    """By what the installed package says of itself."""
    try:
        installed = metadata(pin.name)
    except PackageNotFoundError:
        pytest.skip(f"{pin.name} is not installed")
    if installed["Version"].partition("+")[0] not in pin.specifier:
        pytest.skip(f"{pin.name} {installed['Version']} is installed")
    admits = SpecifierSet(installed["Requires-Python"] or "")
    pinned_for = [each for each in PYTHONS if not pin.marker or pin.marker.evaluate({"python_version": each})]
    assert pinned_for and not [each for each in pinned_for if f"{each}.9" not in admits], admits
