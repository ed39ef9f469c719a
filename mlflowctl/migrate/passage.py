"""The way of rows from a source to a target: chosen, cleaned, changed, in that order.

A ``Passage`` is made from the journal's document, so that a verification and a resumed migration repeat exactly what
the first run did. It is shared by all threads; a ``Lane`` is its working state for one chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflowctl.migrate.transform import ArtifactTransform, NegativeZeroTransform, RenumberTransform, Transforms

if TYPE_CHECKING:
    from mlflowctl.migrate.clean import Cleaner, Cleaning, Reject
    from mlflowctl.migrate.select import Selection
    from mlflowctl.migrate.transform import Transform
    from mlflowctl.stores.api import TableBatch


@dataclass(slots=True)
class Tally:
    """What happened to rows on their way, as numbers that add up over chunks and survive in the journal."""

    skipped: Counter[str] = field(default_factory=Counter)
    """Rows left out, by table."""
    fixed: Counter[str] = field(default_factory=Counter)
    """Rows mended, by table."""
    rules: Counter[str] = field(default_factory=Counter)
    """Rejects by rule."""
    mapped: Counter[str] = field(default_factory=Counter)
    """Rows by the number of the artifact mapping."""
    negative_zero: int = 0

    def document(self) -> dict[str, Any]:
        """As JSON, the empty parts left out."""
        whole = {
            "skipped": dict(self.skipped),
            "fixed": dict(self.fixed),
            "rules": dict(self.rules),
            "mapped": dict(self.mapped),
            "negative_zero": self.negative_zero,
        }
        return {name: value for name, value in whole.items() if value}

    def add(self, document: Mapping[str, Any]) -> None:
        """Take in another tally's document."""
        self.skipped.update(document.get("skipped", {}))
        self.fixed.update(document.get("fixed", {}))
        self.rules.update(document.get("rules", {}))
        self.mapped.update(document.get("mapped", {}))
        self.negative_zero += document.get("negative_zero", 0)


class Passage:
    """What happens to rows, shared and unchanging."""

    def __init__(
        self,
        make_transforms: Callable[[], Transforms],
        selection: Selection | None = None,
        cleaning: Cleaning | None = None,
    ) -> None:
        self._make_transforms = make_transforms
        self.selection = selection
        self.cleaning = cleaning

    def lane(self) -> Lane:
        """A fresh working state."""
        return Lane(self._make_transforms(), self.selection, self.cleaning.cleaner() if self.cleaning else None)

    def stream(self, batches: Iterator[TableBatch], lane: Lane | None = None) -> Generator[TableBatch, None, None]:
        """``batches`` as they arrive, then the rows that are added on the way."""
        lane = lane or self.lane()
        for batch in batches:
            yield lane.apply(batch)
        yield from lane.added()

    def concerns(self, table: str, kind: type[Transform]) -> bool:
        """Whether a change of this kind looks at the table."""
        return self._make_transforms().concerns(table, kind)


class Lane:
    """The working state of a passage over some rows."""

    def __init__(self, transforms: Transforms, selection: Selection | None, cleaner: Cleaner | None) -> None:
        self._transforms = transforms
        self._selection = selection
        self._cleaner = cleaner
        self.rejects: list[Reject] = []
        """What was left out or mended so far; the caller takes it away."""
        self._tally = Tally()

    def apply(self, batch: TableBatch) -> TableBatch:
        """The batch as it arrives. Without a cleaner odd rows stay beside it."""
        if self._selection is not None:
            batch = self._selection.apply(batch)
        if self._cleaner is not None:
            batch = self._cleaner.apply(batch)
            self.rejects.extend(self.count(self._cleaner.take()))
        return self._transforms.apply(batch)

    def count(self, rejects: list[Any]) -> list[Any]:
        """Take rejects into the tally; they come back."""
        for reject in rejects:
            self._tally.rules[reject.rule] += 1
            (self._tally.skipped if reject.became is None else self._tally.fixed)[reject.table] += 1
        return rejects

    def added(self) -> Iterator[TableBatch]:
        """Rows that the changes add once, after everything else."""
        return self._transforms.added()

    def tally(self) -> Tally:
        """What happened so far."""
        for transform in self._transforms.transforms:
            if isinstance(transform, ArtifactTransform):
                self._tally.mapped = Counter({str(n): m.rows for n, m in enumerate(transform.used()) if m.rows})
            elif isinstance(transform, NegativeZeroTransform):
                self._tally.negative_zero = transform.rows
        return self._tally


def explained(tally: Tally) -> list[dict[str, Any]]:
    """The ``explained`` member of a document."""
    return [NegativeZeroTransform.explanation(tally.negative_zero)] if tally.negative_zero else []


def mapped(passage: Passage, tally: Tally) -> list[dict[str, Any]]:
    """The ``artifacts.mapped`` member of a result."""
    for transform in passage._make_transforms().transforms:
        if isinstance(transform, ArtifactTransform):
            return transform.report([tally.mapped[str(n)] for n in range(len(transform.used()))])
    return []


def renumbered(passage: Passage) -> int:
    """How many experiments get another ID."""
    for transform in passage._make_transforms().transforms:
        if isinstance(transform, RenumberTransform):
            return sum(old != new for old, new in transform.ids.items())
    return 0
