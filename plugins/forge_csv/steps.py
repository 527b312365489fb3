"""Training steps as a table."""

from __future__ import annotations

import csv
import os
from dataclasses import asdict
from typing import Any

from cosmos_forge.events import Stamped, Step
from cosmos_forge.types import LoggerContext
from forge_csv.plugin import CsvOptions


class Csv:
    """`kinds.Logger`. A row a reported step, in the order of the steps; a step done again replaces what came after."""

    def __init__(self, options: CsvOptions, context: LoggerContext) -> None:
        self.path = context.folder / "steps.csv"
        self.columns: list[str] = []
        self.rows: list[dict[str, Any]] = []
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self.rows, self.columns = list(reader), list(reader.fieldnames or [])

    def on_event(self, stamped: Stamped) -> None:
        if not isinstance(stamped.event, Step):
            return
        fields = asdict(stamped.event)
        row = {"step": fields.pop("step"), "time": round(stamped.time, 3), **fields.pop("metrics"), **fields}
        kept = [each for each in self.rows if int(each["step"]) < row["step"]]
        columns = list(dict.fromkeys([*self.columns, *row]))
        adds_a_line = len(kept) == len(self.rows) and columns == self.columns
        self.rows, self.columns = [*kept, row], columns
        if adds_a_line:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, columns).writerow(row)
        else:
            self._write()

    def close(self) -> None:
        """Every row is written as it comes."""

    def _write(self) -> None:
        temporary = self.path.with_suffix(".csv.partial")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(temporary, self.path)
