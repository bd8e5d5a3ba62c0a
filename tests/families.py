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

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest after each part of a test."""
        found = dict(report.user_properties)
        if report.when == "call" and "family" in found:
            family = str(found["family"])
            self.worst[family] = max(self.worst.get(family, 0.0), float(str(found["worst_error"])))
            if found["text"]:
                self.text.add(family)


def table(worst: Mapping[str, float], text: set[str]) -> str:
    """The support table: a row a family, in the order of the tests."""
    rows = [
        f"| `{family}` | {'yes' if family in text else 'no'} | 16, {pretrained.PROBES} of them held against it "
        f"| {worst[family]:.1e} |"
        for family in pretrained.FAMILIES
    ]
    head = ["| `model_type` | text | probes a layer | worst error |", "|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


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
            written = re.sub(f"(?<={BEGIN}).*(?={END})", table(findings.worst, findings.text), page, flags=re.DOTALL)
            (ROOT / name).write_text(written, encoding="utf-8")
    sys.exit(code)


if __name__ == "__main__":
    main()
