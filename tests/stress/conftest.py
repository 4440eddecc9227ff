"""Doses of the campaign, and its table."""

import pytest

ROWS: list[tuple[str, int, str, int]] = []


class Campaign:
    """How much is tried, and what came of it."""

    def __init__(self, full: bool, seed: int):
        self.full, self.seed = full, seed

    def dose(self, *, full: int, small: int) -> int:
        """Give how often something is tried."""
        return full if self.full else small

    def report(self, what: str, count: int, outcome: str, faults: list[str]) -> None:
        """Add a row to the table that ends the run."""
        ROWS.append((what, count, outcome, len(faults)))


@pytest.fixture(scope="session")
def campaign(pytestconfig):
    return Campaign(pytestconfig.getoption("--stress"), pytestconfig.getoption("--stress-seed"))


def pytest_terminal_summary(terminalreporter, config):
    if ROWS and config.getoption("--stress"):
        terminalreporter.section("campaign")
        terminalreporter.line("| tried | times | outcome | faults |\n|---|---|---|---|")
        for row in ROWS:
            terminalreporter.line("| " + " | ".join(map(str, row)) + " |")
