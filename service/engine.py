"""What a batcher runs: the one interface between waiting and running."""

from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Job(Protocol[Result]):
    """One batch, to be run once.

    Attributes:
        waits: whether it has to wait before it can go on, which is no time of its run.
    """

    @property
    def waits(self) -> bool: ...  # noqa: D102 - above

    def result(self) -> list[Result]:
        """Runs it: one result an item, in order; called in the thread of runs."""

    def stop(self) -> None:
        """Has the run fail as soon as it can; called from another thread, before, during or after it."""


class Engine(Protocol[Item, Result]):
    """Runs batches of items, and knows which batches pay."""

    @property
    def batch_tokens(self) -> int:
        """Positions of a batch that is large enough."""

    @property
    def takes_all_cores(self) -> bool:
        """Whether a run has as many threads as there are cores, the event loop's among them."""

    def job(self, items: list[Item]) -> Job[Result]:
        """A batch of these items."""

    def choose(self, lengths: list[int]) -> list[int]:
        """From the lengths of entries of one kind, first in line first, to the indices of the next batch."""

    def predict_s(self, length: int) -> float:
        """Seconds of a run of one item of so many positions."""
