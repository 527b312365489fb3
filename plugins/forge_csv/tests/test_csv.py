"""The logger csv: its contract, and the table it writes."""

import csv
import dataclasses

from cosmos_forge import events
from cosmos_forge.testing import LoggerContract
from cosmos_forge.types import LoggerContext
from forge_csv.plugin import CsvOptions
from forge_csv.steps import Csv


class TestCsv(LoggerContract):
    use = "csv"


def take(folder, *steps: tuple[int, float], **metrics: float) -> list[dict[str, str]]:
    """The table after another attempt's steps and losses."""
    logger = Csv(CsvOptions(), LoggerContext("run", folder, {}))
    for step, loss in steps:
        event = events.Step(step, 100, loss, metrics, 1e-4, 0.5, 1.5, 2.0, 0.1, 3.0)
        logger.on_event(events.Stamped(event, 1000.0 + step))
    logger.on_event(events.Stamped(events.RunFinished(1.0), 2000.0))
    logger.close()
    with (folder / "steps.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_a_step(tmp_path):
    rows = take(tmp_path, (1, 0.5), (2, 0.25), edm=0.125)
    assert [(row["step"], row["time"], row["loss"], row["edm"]) for row in rows] == [
        ("1", "1001.0", "0.5", "0.125"),
        ("2", "1002.0", "0.25", "0.125"),
    ]
    fields = {field.name for field in dataclasses.fields(events.Step)} - {"metrics"}
    assert rows[0].keys() == {"time", "edm", *fields}


def test_steps_done_again_replace_those_that_were_lost(tmp_path):
    take(tmp_path, (1, 0.1), (2, 0.2), (3, 0.3))
    rows = take(tmp_path, (2, 0.7), (3, 0.8))
    assert [row["loss"] for row in rows] == ["0.1", "0.7", "0.8"]


def test_a_metric_that_comes_later_gets_a_column(tmp_path):
    take(tmp_path, (1, 0.1))
    rows = take(tmp_path, (2, 0.2), late=4.0)
    assert [row["late"] for row in rows] == ["", "4.0"]
    assert [path.name for path in tmp_path.iterdir()] == ["steps.csv"]
