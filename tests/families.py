"""`make families`: runs the tests marked `families`, and writes what they found into README.md and docs/families.md.

The tables stand between two comments; nothing is written unless every test passes.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.export import pretrained

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/families.md")
BEGIN, END = "<!-- by make families -->\n", "<!-- end -->\n"


class Findings:
    """What the tests record, by family."""

    def __init__(self) -> None:
        self.worst: dict[str, float] = {}
        self.text: set[str] = set()
        self.probes: dict[str, set[tuple[int, int]]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest after each part of a test."""
        found = dict(report.user_properties)
        if report.when == "call" and "family" in found:
            family = str(found["family"])
            self.worst[family] = max(self.worst.get(family, 0.0), float(str(found["worst_error"])))
            self.probes.setdefault(family, set()).add((int(str(found["probes"])), int(str(found["held"]))))
            if found["text"]:
                self.text.add(family)


def table(worst: Mapping[str, float], text: set[str], probes: Mapping[str, set[tuple[int, int]]]) -> str:
    """The support table: a row a family, in the order of the tests."""
    rows = [
        f"| `{family}` | {'yes' if family in text else 'no'} | {_probes(probes[family])} | {worst[family]:.1e} |"
        for family in pretrained.FAMILIES
    ]
    head = ["| `model_type` | text | probes a layer | worst error |", "|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


def _probes(found: set[tuple[int, int]]) -> str:
    """How many a layer has, which may differ from config to config, and how many of them are held."""
    every, held = (" or ".join(str(count) for count in sorted({pair[place] for pair in found})) for place in (0, 1))
    return f"{every}, {held} of them held against it"


def between(page: str) -> str:
    """What stands between the two comments of a page."""
    return page.partition(BEGIN)[2].partition(END)[0]


def main() -> None:
    """Exits as pytest does."""
    findings = Findings()
    words = ["-m", "families", "-n", "2", "--timeout", "600", *sys.argv[1:], "tests/export/test_family_graphs.py"]
    code = pytest.main(words, plugins=[findings])
    if code == 0 and {*findings.worst} == {*pretrained.FAMILIES}:
        for name in PAGES:
            page = (ROOT / name).read_text(encoding="utf-8")
            written = re.sub(
                f"(?<={BEGIN}).*(?={END})", table(findings.worst, findings.text, findings.probes), page, flags=re.DOTALL
            )
            (ROOT / name).write_text(written, encoding="utf-8")
    sys.exit(code)


if __name__ == "__main__":
    main()
