"""Post-train Cosmos-Predict1 Video2World on your own clips, and generate videos with the result.

What stands in `__all__` is the public API of plugins, with the modules `kinds`, `types`, `frames`, `edm`, `events` and
`testing`; nothing else is promised.
"""

from cosmos_forge.errors import ForgeError, Problem
from cosmos_forge.hookspecs import hookimpl
from cosmos_forge.options import Download, HubOptions, Options
from cosmos_forge.types import Context

__version__ = "0.1.0"
__all__ = ["Context", "Download", "ForgeError", "HubOptions", "Options", "Problem", "hookimpl"]
