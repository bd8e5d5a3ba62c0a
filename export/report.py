"""What the person at the command line sees: progress while it runs, the parity table after."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from export.proof import Accuracy, Proof
from export.sources import Source


class Steps:
    """Shows each step as it begins: a bar in a terminal, a line each elsewhere. Called with the step's name."""

    def __init__(self, console: Console, source: Source) -> None:
        own = source.config is not None
        graphs = 1 + len(source.layers) + (source.text is not None)
        # Traced, written as weights, checked, proven, overrides proven, written.
        self.total = graphs + 1 + graphs + own * len(source.layers) + graphs + own + 1
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description:24}"), BarColumn(), TimeElapsedColumn(), console=console, transient=True
        )
        self.task = self.progress.add_task("start", total=self.total)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def __call__(self, description: str) -> None:
        """Shows that the step of this name begins."""
        if self.console.is_terminal:
            self.progress.update(self.task, advance=1, description=description)
        else:
            self.console.print(description, highlight=False)


def parity_table(proof: Proof) -> Table:
    """One row an output, the layers of a probe folded into the worst of them."""
    table = Table(title="Parity with PyTorch float64", title_justify="left")
    for heading in ("output", "max error", "PyTorch float32's own", "verdict"):
        table.add_column(heading, justify="left" if heading in {"output", "verdict"} else "right")
    for name, found in _folded(proof.outputs).items():
        verdict = "[red]breach" if found.breach else "[green]equal"
        table.add_row(name, f"{found.max_error:.2e}", f"{found.eager_float32_max_error:.2e}", verdict)
    return table


def _folded(outputs: dict[str, Accuracy]) -> dict[str, Accuracy]:
    folded: dict[str, Accuracy] = {}
    for name, found in outputs.items():
        key = f"layers.*.{name.split('.', 2)[2]}" if name.startswith("layers.") else name
        worst = folded.get(key, Accuracy())
        folded[key] = Accuracy(
            max(worst.max_error, found.max_error),
            max(worst.eager_float32_max_error, found.eager_float32_max_error),
            worst.breach or found.breach,
        )
    return folded
