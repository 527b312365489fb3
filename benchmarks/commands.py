"""How long commands take that only look: medians of whole processes, in seconds.

python benchmarks/commands.py
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

RECIPE = Path(__file__).parents[1] / "recipes" / "video2world-7b-lora.toml"
COMMANDS = (
    ["--help"],
    ["plugins"],
    ["plugins", "--schema"],
    ["explain", str(RECIPE)],
    ["explain", str(RECIPE), "--gpu", "h100-80gb:8"],
    ["run", str(RECIPE), "train.lr=0"],  # refused
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    print("| command | wall clock | of the processor |\n| --- | --- | --- |")
    for arguments in COMMANDS:
        wall, used = zip(*(once(arguments) for _ in range(repeats)), strict=True)
        name = " ".join(["forge", *(Path(each).name for each in arguments)])
        print(f"| `{name}` | {statistics.median(wall):.2f} s | {statistics.median(used):.2f} s |")


def once(arguments: list[str]) -> tuple[float, float]:
    """Seconds by the clock, and of the processor."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "cosmos_forge", *arguments], capture_output=True, check=False)
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    return end - begin, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
