"""Registers `csv`."""

from __future__ import annotations

from cosmos_forge import Options, hookimpl


class CsvOptions(Options):
    """Writes training steps to `steps.csv` in the run's folder, for spreadsheets and plots."""


@hookimpl
def register_loggers(register):
    register("csv", options=CsvOptions, build="forge_csv.steps:Csv")
