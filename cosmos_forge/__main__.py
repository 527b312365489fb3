"""`python -m cosmos_forge` is `forge`."""

from cosmos_forge.cli import main

main()
