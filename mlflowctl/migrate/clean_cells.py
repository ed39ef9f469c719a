"""Cells that a target cannot hold: one small rule each, and what ``fix`` makes of them.

A rule first finds suspects in a whole column at once (it may name too many, never too few), then judges each of them
alone. So a clean column costs a look at its bytes, and only a bad cell costs Python.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlflowctl.stores.sql.collate import holds, squeezed

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mlflowctl.stores.schema import Column, Table

    Mask = NDArray[np.bool_]

TRACE_ANALYTICS: Final = "75868b020152"
"""The revision that refuses spans and assessments without a trace, and dimensions of spans that it does not know."""
TEXTUAL: Final = ("text", "json", "date")
_GREATEST: Final = 1.7976931348623157e308
"""What MLflow's store writes for an infinite metric (SqlAlchemyStore.sanitize_metric_value)."""


class _LeftOut:
    """The one value that says: no rule mends this cell."""

    def __repr__(self) -> str:
        return "left out"


LEFT_OUT: Final = _LeftOut()


@dataclass(frozen=True, slots=True)
class Place:
    """What the rules need to know about both sides."""

    policy: str
    source: str
    target: str
    upgrades: frozenset[str] = frozenset()
    """Revisions between the source's and the final one."""
    charset: str | None = None
    """The target's character set, where it lacks characters."""
    experiments: frozenset[int] = frozenset()
    """IDs of the source's experiments: those beyond 32 bits are renumbered after the cleaning."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a cell or a row; ``value`` is the cell after ``fix``, ``also`` other cells that change."""

    rule: str
    text: str
    value: Any = LEFT_OUT
    also: Mapping[str, Any] = field(default_factory=dict)
    twin: bool = False
    """The row has its place taken by another one, or lies below such a row."""


class Cells:
    """A column of a batch with the views that several rules share."""

    def __init__(self, array: pa.Array) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    @cached_property
    def offsets(self) -> NDArray[np.int32]:
        """Where each text begins in ``data``, and the end of the last."""
        whole = np.frombuffer(self.array.buffers()[1], np.int32)
        return whole[self.array.offset : self.array.offset + len(self.array) + 1]

    @cached_property
    def data(self) -> NDArray[np.uint8]:
        """The bytes of all texts one after another."""
        buffer = self.array.buffers()[2]
        if buffer is None or not len(self.array):
            return np.zeros(0, np.uint8)
        return np.frombuffer(buffer, np.uint8)[self.offsets[0] : self.offsets[-1]]

    @cached_property
    def ascii(self) -> bool:
        """Whether every byte is below 128."""
        return not self.data.size or bool((self.data < 0x80).all())

    def longer(self, size: int) -> Mask | None:
        """Texts of more than so many bytes."""
        if not len(self.array):
            return None
        return some(np.diff(self.offsets) > size)

    def holding(self, where: NDArray[np.bool_]) -> Mask | None:
        """Texts with a byte that ``where`` marks in ``data``."""
        places = np.flatnonzero(where)
        if not places.size:
            return None
        rows = np.searchsorted(self.offsets - self.offsets[0], places, side="right") - 1
        mask = np.zeros(len(self.array), np.bool_)
        mask[rows] = True
        return mask

    def failing(self, good: Callable[[bytes], bool]) -> Mask | None:
        """Texts that fail a test; each different text is tested once."""
        encoded = self.array.dictionary_encode()
        values = encoded.dictionary.cast(pa.binary()).to_pylist()
        bad = np.fromiter((not good(value) for value in values), np.bool_, len(values))
        if not bad.any():
            return None
        codes = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)
        mask: Mask = bad[codes]
        if encoded.indices.null_count:
            mask &= ~encoded.indices.is_null().to_numpy(zero_copy_only=False)
        return mask


def some(mask: Any) -> Mask | None:
    """The mask, or None when it marks nothing."""
    return mask if mask.any() else None


class CellRule(ABC):
    """One rule for the cells of one column."""

    name: ClassVar[str]
    what: ClassVar[str]
    """For people: what is wrong, and what ``fix`` does."""
    judges_null: ClassVar[bool] = False
    judges_bytes: ClassVar[bool] = False
    """Whether it wants text that is not UTF-8 as the bytes that it is."""

    def __init__(self, column: Column, place: Place) -> None:
        self.column = column
        self.place = place

    @classmethod
    @abstractmethod
    def make(cls, table: Table, column: Column, place: Place) -> CellRule | None:
        """The rule for a column; None where it cannot matter."""

    @abstractmethod
    def suspects(self, cells: Cells) -> Mask | None:
        """The cells that may break the rule; None for none."""

    @abstractmethod
    def judge(self, value: Any) -> Finding | None:
        """What is wrong with one cell, or None. Text comes as str, except to the rule of encodings."""


class InvalidUtf8(CellRule):
    """SQLite keeps whatever bytes a program wrote as text."""

    name = "invalid_utf8"
    what = "text that is not UTF-8; fix: U+FFFD for what cannot be read, the bytes are kept in the rejects"
    judges_bytes = True

    @classmethod
    def make(cls, table: Table, column: Column, place: Place) -> CellRule | None:
        return cls(column, place) if column.kind in TEXTUAL and place.source == "sqlite" else None

    def suspects(self, cells: Cells) -> Mask | None:
        if cells.ascii:
            return None
        try:
            cells.array.cast(pa.binary()).cast(pa.string())
            return None
        except pa.ArrowInvalid:
            return cells.failing(_is_utf8)

    def judge(self, value: Any) -> Finding | None:
        if isinstance(value, str) or _is_utf8(value):
            return None
        return Finding(self.name, f"{shown(value)} is not UTF-8", value.decode("utf-8", "replace"))


class NulByte(CellRule):
    """PostgreSQL's text cannot hold U+0000."""

    name = "nul_byte"
    what = "a NUL byte in text for PostgreSQL; fix: it is dropped"

    @classmethod
    def make(cls, table: Table, column: Column, place: Place) -> CellRule | None:
        matters = place.target == "postgresql" and place.source != "postgresql"
        return cls(column, place) if matters and column.kind in TEXTUAL else None

    def suspects(self, cells: Cells) -> Mask | None:
        if not cells.data.size or cells.data.all():
            return None
        return cells.holding(cells.data == 0)

    def judge(self, value: Any) -> Finding | None:
        if "\0" not in value:
            return None
        text = f"{shown(value)} has a NUL byte (character {value.index(chr(0)) + 1}), which PostgreSQL cannot hold"
        return Finding(self.name, text, value.replace("\0", ""))


class NotInCharset(CellRule):
    """A database of an old character set (utf8mb3, latin1) lacks characters."""

    name = "not_in_charset"
    what = "a character that the target's character set lacks; fix: U+FFFD, or ?, in its place"

    @classmethod
    def make(cls, table: Table, column: Column, place: Place) -> CellRule | None:
        return cls(column, place) if place.charset is not None and column.kind in ("text", "json") else None

    def suspects(self, cells: Cells) -> Mask | None:
        return None if cells.ascii else cells.holding(cells.data >= 0x80)

    def judge(self, value: Any) -> Finding | None:
        if holds(self.place.charset, value):
            return None
        lacking = next(c for c in value if not holds(self.place.charset, c))
        text = f"U+{ord(lacking):04X} in {shown(value)} is not in the target's character set {self.place.charset}"
        return Finding(self.name, text, squeezed(self.place.charset, value))


_LISTS = (
    re.compile(r"[\s(\"`](?P<name>\w+)[\"`]?(?:\)?::text)?\s+in\s*\((?P<list>'[^)]*)\)", re.IGNORECASE),
    re.compile(r"[\s(\"](?P<name>\w+)\"?\)?(?:::text)?\s*=\s*ANY\s*\(+ARRAY\[(?P<list>[^\]]*)\]", re.IGNORECASE),
)


def allowed_values(table: Table, column: str) -> tuple[str, ...] | None:
    """The texts that the table's checks leave to a column, or None where no check lists any."""
    found: list[str] | None = None
    for check in table.checks:
        for pattern in _LISTS:
            match = pattern.search(check.text)
            if match and match["name"] == column:
                values = re.findall(r"'([^']*)'", match["list"])
                # Two checks of one column hold together (runs.status on MySQL at cfd24bdc0731).
                found = values if found is None else [v for v in found if v in values]
    return None if found is None else tuple(found)


# What other programs and other releases call the states of a run; RunStatus numbers them from 1.
_MEANINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "KILLED": ("KILLED", "FAILED"),
    "CANCELED": ("KILLED", "FAILED"),
    "CANCELLED": ("KILLED", "FAILED"),
    "ABORTED": ("KILLED", "FAILED"),
    "STOPPED": ("KILLED", "FAILED"),
    "TERMINATED": ("KILLED", "FAILED"),
    "ERROR": ("FAILED",),
    "FAILURE": ("FAILED",),
    "CRASHED": ("FAILED",),
    "COMPLETE": ("FINISHED",),
    "COMPLETED": ("FINISHED",),
    "SUCCESS": ("FINISHED",),
    "SUCCEEDED": ("FINISHED",),
    "DONE": ("FINISHED",),
    "OK": ("FINISHED",),
    "PENDING": ("SCHEDULED",),
    "QUEUED": ("SCHEDULED",),
    "CREATED": ("SCHEDULED",),
    "WAITING": ("SCHEDULED",),
    "STARTED": ("RUNNING",),
    "ACTIVE": ("RUNNING",),
    "IN_PROGRESS": ("RUNNING",),
    "1": ("RUNNING",),
    "2": ("SCHEDULED",),
    "3": ("FINISHED",),
    "4": ("FAILED",),
    "5": ("KILLED", "FAILED"),
    # A lifecycle stage; spelled most like "active", which it is not.
    "ARCHIVED": ("deleted",),
}


def nearest(value: str, allowed: tuple[str, ...]) -> Any:
    """The allowed value that means the same or is spelled most alike; LEFT_OUT where none does."""
    bare = value.strip()
    for candidate in allowed:
        if candidate.casefold() == bare.casefold():
            return candidate
    for candidate in _MEANINGS.get(bare.upper().replace(" ", "_").replace("-", "_"), ()):
        if candidate in allowed:
            return candidate
    alike = difflib.get_close_matches(bare.upper(), [a.upper() for a in allowed], 1, 0.7)
    if alike:
        return next(a for a in allowed if a.upper() == alike[0])
    # MLflow's own word for a source that it does not know; a run whose state nobody knows did not finish well.
    return next((word for word in ("UNKNOWN", "FAILED") if word in allowed), LEFT_OUT)


class NotAllowed(CellRule):
    """A value that a check of the target's schema does not list."""

    name = "old_status"
    what = (
        "a status that the revision's check does not know (KILLED before cfd24bdc0731; bad_check in another column); "
        "fix: the nearest that it does: the same in capitals, the same meaning (KILLED is FAILED), the same but for a "
        "typing error, else FAILED (UNKNOWN as a source type); a lifecycle stage like no other is left out"
    )

    def __init__(self, column: Column, place: Place, allowed: tuple[str, ...]) -> None:
        super().__init__(column, place)
        self._allowed = allowed
        self._set = pa.array(allowed, pa.string())

    @classmethod
    def make(cls, table: Table, column: Column, place: Place) -> CellRule | None:
        allowed = allowed_values(table, column.name) if column.kind == "text" else None
        return cls(column, place, allowed) if allowed else None

    def suspects(self, cells: Cells) -> Mask | None:
        outside = pc.and_(pc.is_valid(cells.array), pc.invert(pc.is_in(cells.array, self._set)))
        return some(outside.to_numpy(zero_copy_only=False))

    def judge(self, value: Any) -> Finding | None:
        if value in self._allowed:
            return None
        rule = self.name if self.column.name == "status" else "bad_check"
        text = f"{shown(value)} is not one of {', '.join(self._allowed)}"
        return Finding(rule, text, nearest(value, self._allowed))


class OverLength(CellRule):
    """VARCHAR counts characters, MySQL's TEXT bytes; SQLite counts nothing."""

    name = "over_length"
    what = "text longer than its column (PostgreSQL, MySQL); fix: cut to the limit, the whole text is in the rejects"

    def __init__(self, column: Column, place: Place, limit: int, unit: str) -> None:
        super().__init__(column, place)
        self._limit = limit
        self._unit = unit

    @classmethod
    def make(cls, table: Table, column: Column, place: Place) -> CellRule | None:
        if place.target == "sqlite" or column.kind not in ("text", "bytes"):
            return None
        if column.kind == "text" and column.length is not None:
            return cls(column, place, column.length, "characters")
        if place.target == "mysql" and column.max_bytes is not None:
            return cls(column, place, column.max_bytes, "bytes")
        return None

    def suspects(self, cells: Cells) -> Mask | None:
        # A text has at most as many characters as bytes.
        mask = cells.longer(self._limit)
        if mask is None or self._unit == "bytes" or cells.ascii:
            return mask
        counted = np.zeros(len(cells), np.int64)
        counted[mask] = [_characters(raw) for raw in cells.array.cast(pa.binary()).filter(pa.array(mask)).to_pylist()]
        return some(counted > self._limit)

    def judge(self, value: Any) -> Finding | None:
        if self._unit == "characters":
            if len(value) <= self._limit:
                return None
            return Finding(self.name, f"{len(value)} characters, the column holds {self._limit}", value[: self._limit])
        raw = value.encode() if isinstance(value, str) else value
        if len(raw) <= self._limit:
            return None
        text = f"{len(raw)} bytes, the column holds {self._limit}"
        if not isinstance(value, str):
            # Half of a secret or a key is worth nothing.
            return Finding(self.name, text)
        return Finding(self.name, text, raw[: self._limit].decode("utf-8", "ignore"))


class BadJson(CellRule):
    """PostgreSQL and MySQL parse what stands in a JSON column; SQLite and MLflow's own reading of it do not mind."""

    name = "bare_nan_in_json"
    what = "NaN or Infinity in JSON (PostgreSQL, MySQL); fix: null. invalid_json: text that is no JSON; left out"

    @classmethod
    def make(cls, table: Table, column: Column, place: Place) -> CellRule | None:
        matters = place.target != "sqlite" and place.source in ("sqlite", "files")
        return cls(column, place) if matters and column.kind == "json" else None

    def suspects(self, cells: Cells) -> Mask | None:
        return cells.failing(_is_json)

    def judge(self, value: Any) -> Finding | None:
        if _is_json(value.encode()):
            return None
        try:
            json.loads(value, **_AS_SPELLED)
        except (ValueError, RecursionError) as bad:
            return Finding("invalid_json", f"{shown(value)} is not JSON ({bad})")
        return Finding(self.name, f"{shown(value)} has a bare NaN or Infinity, which is not JSON", without_nan(value))


class UnsupportedDimensions(CellRule):
    """75868b020152 refuses to drop span dimensions whose meaning it does not know."""

    name = "unsupported_dimensions"
    what = "spans.dimension_attributes that MLflow's revision 75868b020152 refuses; fix: reduced to what it carries on"
    _KNOWN = ("mlflow.llm.model", "mlflow.llm.provider")

    @classmethod
    def make(cls, table: Table, column: Column, place: Place) -> CellRule | None:
        ours = table.name == "spans" and column.name == "dimension_attributes" and TRACE_ANALYTICS in place.upgrades
        return cls(column, place) if ours else None

    def suspects(self, cells: Cells) -> Mask | None:
        return cells.failing(lambda raw: self._kept(raw) is None)

    def _kept(self, raw: bytes) -> Mapping[str, Any] | None:
        """The members to keep, None when all of them are in order."""
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            return {}
        if value is None:
            return None
        if not isinstance(value, dict):
            return {}
        kept = {k: v for k, v in value.items() if k in self._KNOWN and (v is None or isinstance(v, str))}
        return None if kept == value else kept

    def judge(self, value: Any) -> Finding | None:
        kept = self._kept(value.encode())
        if kept is None:
            return None
        text = f"MLflow's revision {TRACE_ANALYTICS} refuses {shown(value)}"
        return Finding(self.name, text, json.dumps(kept) if kept else None)


class OutOfRange(CellRule):
    """PostgreSQL's and MySQL's INTEGER has 32 bits, SQLite's 64."""

    name = "out_of_range"
    what = "an integer beyond 32 bits where the column has no more (PostgreSQL, MySQL); left out"

    @classmethod
    def make(cls, table: Table, column: Column, place: Place) -> CellRule | None:
        narrow = column.kind == "int" and column.bits is not None and column.bits < 64
        return cls(column, place) if narrow and place.target != "sqlite" else None

    @cached_property
    def _ends(self) -> tuple[int, int]:
        bits = self.column.bits or 64
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1

    def suspects(self, cells: Cells) -> Mask | None:
        values = _numbers(cells.array, 0)
        low, high = self._ends
        return some((values < low) | (values > high))

    def judge(self, value: Any) -> Finding | None:
        low, high = self._ends
        if low <= value <= high or (self.column.name == "experiment_id" and value in self.place.experiments):
            return None
        return Finding(self.name, f"{value} is beyond the column's {self.column.bits} bits")


class UnstorableFloat(CellRule):
    """MySQL has neither NaN nor infinities; SQLite turns NaN into NULL."""

    name = "unstorable_float"
    what = (
        "NaN (MySQL, SQLite) or Infinity (MySQL); fix: as MLflow's store writes such a metric, value 0 with is_nan true "
        "or plus or minus 1.7976931348623157e308; left out where the table has no is_nan"
    )

    def __init__(self, column: Column, place: Place, *, metric: bool) -> None:
        super().__init__(column, place)
        self._metric = metric

    @classmethod
    def make(cls, table: Table, column: Column, place: Place) -> CellRule | None:
        if column.kind != "float" or place.target == "postgresql" or place.source == "mysql":
            return None
        metric = column.name == "value" and any(c.name == "is_nan" for c in table.columns)
        return cls(column, place, metric=metric)

    def suspects(self, cells: Cells) -> Mask | None:
        values = _numbers(cells.array, 0.0)
        return some(np.isnan(values) if self.place.target == "sqlite" else ~np.isfinite(values))

    def judge(self, value: Any) -> Finding | None:
        if math.isfinite(value) or (math.isinf(value) and self.place.target == "sqlite"):
            return None
        name = "SQLite" if self.place.target == "sqlite" else "MySQL"
        text = f"{shown(value)} cannot be held by {name}"
        if not self._metric:
            return Finding(self.name, text)
        if math.isnan(value):
            return Finding(self.name, text, 0.0, {"is_nan": True})
        return Finding(self.name, text, math.copysign(_GREATEST, value))


class BadDate(CellRule):
    """A day that PostgreSQL and MySQL can read."""

    name = "bad_date"
    what = "a date that is none (PostgreSQL, MySQL); fix: a midnight loses its time, else left out"

    @classmethod
    def make(cls, table: Table, column: Column, place: Place) -> CellRule | None:
        matters = place.target != "sqlite" and place.source in ("sqlite", "files")
        return cls(column, place) if matters and column.kind == "date" else None

    def suspects(self, cells: Cells) -> Mask | None:
        return cells.failing(_is_date)

    def judge(self, value: Any) -> Finding | None:
        if _is_date(value.encode()):
            return None
        midnight = re.fullmatch(r"(\d{4}-\d\d-\d\d)[ T]00:00(:00(\.0+)?)?Z?", value)
        exact = midnight.group(1) if midnight and _is_date(midnight.group(1).encode()) else LEFT_OUT
        return Finding(self.name, f"{shown(value)} is not a date", exact)


class NullInNotNull(CellRule):
    """SQLite lets NULL into a primary key, and a lost constraint lets it in elsewhere."""

    name = "null_in_not_null"
    what = "NULL where the schema says NOT NULL; left out"
    judges_null = True

    @classmethod
    def make(cls, table: Table, column: Column, place: Place) -> CellRule | None:
        return None if column.nullable else cls(column, place)

    def suspects(self, cells: Cells) -> Mask | None:
        return cells.array.is_null().to_numpy(zero_copy_only=False) if cells.array.null_count else None

    def judge(self, value: Any) -> Finding | None:
        return Finding(self.name, "NULL in a column that is NOT NULL") if value is None else None


CELL_RULES: Final[tuple[type[CellRule], ...]] = (
    NullInNotNull,
    InvalidUtf8,
    NulByte,
    NotInCharset,
    NotAllowed,
    OverLength,
    BadJson,
    UnsupportedDimensions,
    BadDate,
    OutOfRange,
    UnstorableFloat,
)
"""Every rule for a cell of the right type, in the order in which a cell goes through them."""

ODD_RULES: Final[Mapping[str, str]] = {
    "wrong_type": "a cell of another type; fix: converted where that is exact ('12', 12.0), else left out",
    "fraction_in_integer": "a fraction in an integer column; left out",
    "bytes_in_text": "bytes in a text column; fix: text, U+FFFD for what is not UTF-8, the bytes are in the rejects",
    "bad_boolean": "a boolean that is neither 0 nor 1; fix: 'true', 'false', '1', '0', else left out",
}
"""Rules for cells that have no place in their column's type (``OddRow``)."""


def rules_for(table: Table, column: Column, place: Place) -> list[CellRule]:
    """The rules that can matter for a column."""
    return [rule for kind in CELL_RULES if (rule := kind.make(table, column, place)) is not None]


def judge_odd(column: Column, cell: Any, *, alone: bool) -> tuple[Any, Finding | None]:
    """A cell of an odd row as its column's type has it, with what is wrong about it.

    ``alone``: no other cell of the row can be why it is odd. The value is None where the cell has none.
    """
    kind = column.kind
    if cell is None:
        return None, None
    if kind in TEXTUAL and isinstance(cell, str):
        return cell, None
    if kind == "json" and isinstance(cell, (int, float)):
        if math.isfinite(cell):
            return repr(cell), None
        return "null", Finding("bare_nan_in_json", f"{shown(cell)} is not JSON", "null")
    if kind in TEXTUAL and isinstance(cell, (int, float)):
        # A column without a declared type keeps a number as one.
        exact: Any = str(cell) if kind == "text" and math.isfinite(cell) else LEFT_OUT
        return (None if exact is LEFT_OUT else exact), Finding("wrong_type", _another(cell, kind), exact)
    if kind in TEXTUAL and isinstance(cell, bytes):
        text = cell.decode("utf-8", "replace")
        if not alone and not _is_utf8(cell):
            return text, Finding("invalid_utf8", f"{shown(cell)} is not UTF-8", text)
        return text, Finding("bytes_in_text", f"{shown(cell)} is bytes, the column is {kind}", text)
    if kind == "bytes":
        if isinstance(cell, bytes):
            return cell, None
        raw = cell.encode() if isinstance(cell, str) else None
        return raw, Finding("wrong_type", _another(cell, kind), LEFT_OUT if raw is None else raw)
    if kind == "bool":
        return _boolean(cell)
    if kind == "float":
        return _float(cell)
    return _integer(cell, kind)


def _boolean(cell: Any) -> tuple[Any, Finding | None]:
    if isinstance(cell, int) and cell in (0, 1):
        return bool(cell), None
    words = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
    exact: Any = LEFT_OUT
    if isinstance(cell, str):
        exact = words.get(cell.strip().lower(), LEFT_OUT)
    elif isinstance(cell, float) and cell in (0.0, 1.0):
        exact = bool(cell)
    value = None if exact is LEFT_OUT else exact
    return value, Finding("bad_boolean", f"{shown(cell)} is neither 0 nor 1, the column is bool", exact)


def _float(cell: Any) -> tuple[Any, Finding | None]:
    if isinstance(cell, float):
        return cell, None
    exact: Any = LEFT_OUT
    if isinstance(cell, int):
        if abs(cell) <= 2**63 and int(float(cell)) == cell:
            return float(cell), None
    elif isinstance(cell, str) and re.fullmatch(
        r"\s*[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|nan|inf(inity)?)\s*", cell, re.IGNORECASE | re.ASCII
    ):
        exact = float(cell)
        digits = cell.lower().partition("e")[0]
        # Too great or too small for 64 bits.
        if (math.isinf(exact) and "inf" not in digits) or (exact == 0 and re.search("[1-9]", digits)):
            exact = LEFT_OUT
    return (None if exact is LEFT_OUT else exact), Finding("wrong_type", _another(cell, "float"), exact)


def _integer(cell: Any, kind: str) -> tuple[Any, Finding | None]:
    if isinstance(cell, int):
        if -(2**63) <= cell < 2**63:
            return cell, None
        return None, Finding("out_of_range", f"{cell} is beyond 64 bits")
    exact: Any = LEFT_OUT
    rule = "wrong_type"
    if isinstance(cell, float):
        if math.isfinite(cell) and not cell.is_integer():
            rule = "fraction_in_integer"
        elif cell.is_integer() and abs(cell) <= 2**53:
            exact = int(cell)
    elif isinstance(cell, str) and re.fullmatch(r"\s*[+-]?\d+(\.\d*)?([eE][+-]?\d{1,3})?\s*", cell, re.ASCII):
        try:
            number = Decimal(cell.strip())
            if number != number.to_integral_value():
                rule = "fraction_in_integer"
            elif -(2**63) <= number < 2**63:
                exact = int(number)
        except InvalidOperation:
            pass
    return (None if exact is LEFT_OUT else exact), Finding(rule, _another(cell, kind), exact)


def _another(cell: Any, kind: str) -> str:
    name = {str: "text", float: "real", int: "integer", bytes: "blob"}[type(cell)]
    return f"{shown(cell)} is {name}, the column is {kind}"


def shown(value: Any) -> str:
    """A cell in a message, in at most some eighty characters."""
    if isinstance(value, bytes):
        return f"x'{value[:30].hex()}'" + ("..." if len(value) > 30 else "")
    if isinstance(value, str):
        short = value if len(value) <= 80 else value[:77] + "..."
        return repr(short) if not short.isprintable() else "'" + short.replace("'", "''") + "'"
    if isinstance(value, float):
        return (
            "NaN" if math.isnan(value) else "Infinity" if value == math.inf else repr(value).replace("inf", "Infinity")
        )
    return "NULL" if value is None else str(value)


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
        return True
    except UnicodeDecodeError:
        return False


def _characters(raw: bytes) -> int:
    return len(raw.decode("utf-8", "replace"))


def _refuse(word: str) -> Any:
    raise ValueError(word)


# Python refuses to make a number of more than 4,300 digits, which JSON may have.
_AS_SPELLED: Final[Mapping[str, Any]] = {"parse_int": str, "parse_float": str}


def _is_json(raw: bytes) -> bool:
    try:
        json.loads(raw.decode(), parse_constant=_refuse, **_AS_SPELLED)
        return True
    except (ValueError, RecursionError):
        return False


# One step for each stretch without a backslash: a step for each character costs 100 bytes of memory each.
_JSON_WORDS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|-?Infinity|NaN', re.DOTALL)


def without_nan(text: str) -> str:
    """JSON with null for every NaN and Infinity outside of its texts; the rest keeps its spelling."""
    return _JSON_WORDS.sub(lambda match: match.group(0) if match.group(0).startswith('"') else "null", text)


def _is_date(raw: bytes) -> bool:
    try:
        text = raw.decode()
        date.fromisoformat(text)
        return len(text) == 10 and text[4] == text[7] == "-"
    except ValueError:
        return False


def _numbers(array: pa.Array, instead: float) -> NDArray[Any]:
    filled = pc.fill_null(array, instead) if array.null_count else array
    return filled.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
