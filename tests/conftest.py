"""Sums up, at the end of a test run, how near recorded cases were met (see `tests/parity/conftest.py`)."""

from typing import Any

import pytest

ERRORS: dict[str, list[tuple[float, float, str]]] = {}  # by case: error over tolerance, error, of what
CASES: set[str] = set()  # all that there are


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "golden(*patterns): runs once for each recorded case `kind/name` that matches")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "teardown":  # which knows all that the test has noted
        for name, value in report.user_properties:
            if name == "recorded case":
                case, *noted = value
                ERRORS.setdefault(case, []).append(tuple(noted))
            elif name == "recorded cases":
                CASES.update(value)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not ERRORS:
        return
    terminalreporter.section("recorded cases: largest error against its tolerance")
    for name, noted in sorted(ERRORS.items()):
        _, error, what = max(noted)
        terminalreporter.write_line(f"{name:48} {error:8.1e}  {what} ({len(noted)} checked)")
    if unseen := sorted(CASES - set(ERRORS)):
        terminalreporter.write_line(f"cases that no test of this run looked at: {', '.join(unseen)}")
