"""Order-independent content hashes of tables.

A table's hash is the sum modulo 2**128 of a 128-bit hash of each row, so it does not depend on the order of rows, and
a row that stands twice counts twice (XOR would cancel it). The row hash is defined here to the bit, because it is
written into journals and archives and must never change with a library's version:

- each column gives two 64-bit words: an integer, a boolean (0 or 1) or a time (microseconds) its two's complement
  twice; a float its IEEE 754 bits twice, every NaN as 0x7ff8000000000000; text and bytes the two halves of XXH3-128
  (seed 0, big-endian canonical form) of the bytes, which takes the length in; JSON the same of its canonical text;
  NULL zero twice;
- two lanes start from XXH3-128 of the table's name and the column names (sorted, each with its length before it) and
  take in the columns in the order of their names: ``lane = fmix64((lane * K) ^ word)``, then ``^ NULL_TAG`` for NULL.

``fmix64`` is the finalizer of MurmurHash3 (Austin Appleby, public domain), a bijection on 64 bits. So two rows that
differ in one number always differ in both lanes, and the sum of a table in which one such value changed always
differs; for text that holds unless XXH3-128 collides.
"""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    U64 = NDArray[np.uint64]

MODULUS = 1 << 128
_LANE_FACTORS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))
_NULL_TAG = np.uint64(0xA5A3564E27F886AB)
_NAN_BITS = np.uint64(0x7FF8000000000000)
_M1 = np.uint64(0xFF51AFD7ED558CCD)
_M2 = np.uint64(0xC4CEB9FE1A85EC53)
_S33 = np.uint64(33)
_LOW32 = np.uint64(0xFFFFFFFF)
_S32 = np.uint64(32)


def canonical_json(text: str) -> str:
    """One text for all spellings of a JSON value: keys sorted, no blanks, whole floats as integers.

    Databases may store JSON by value (SQLite turns ``1.0`` in a JSON column into 1; MySQL sorts keys), so only the
    value is compared. Text that is no JSON stands for itself.
    """
    try:
        value = json.loads(text, parse_float=_number, object_pairs_hook=_pairs)
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _number(text: str) -> Any:
    """A number's one spelling; digits beyond a double's, or a size beyond it, keep their own text."""
    value = float(text)
    if not math.isfinite(value) or Decimal(text) != Decimal(repr(value)):
        return {"number": text}
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _pairs(pairs: list[tuple[str, Any]]) -> list[Any]:
    """An object as its sorted pairs: a key that stands twice is not the same as one that stands once."""
    return ["object", *sorted(pairs, key=lambda pair: pair[0])]


def row_hashes(table: str, rows: pa.RecordBatch, kinds: Mapping[str, str]) -> tuple[U64, U64]:
    """The two 64-bit lanes of every row's hash; ``kinds`` gives each column's logical kind."""
    names = sorted(rows.schema.names)
    lanes = [np.full(rows.num_rows, start, dtype=np.uint64) for start in _lane_starts(table, names)]
    for name in names:
        words, null = _column_words(rows.column(name), kinds[name])
        for lane, factor, word in zip(lanes, _LANE_FACTORS, words, strict=True):
            np.multiply(lane, factor, out=lane)
            np.bitwise_xor(lane, word, out=lane)
            _fmix64(lane)
            if null is not None:
                lane[null] ^= _NULL_TAG
    return lanes[0], lanes[1]


def _lane_starts(table: str, names: Sequence[str]) -> tuple[np.uint64, np.uint64]:
    label = b"".join(len(part).to_bytes(8, "big") + part for part in (text.encode() for text in (table, *names)))
    digest = xxhash.xxh3_128_digest(label)
    return np.uint64(int.from_bytes(digest[:8], "big")), np.uint64(int.from_bytes(digest[8:], "big"))


def _fmix64(lane: U64) -> None:
    scratch = np.right_shift(lane, _S33)
    np.bitwise_xor(lane, scratch, out=lane)
    np.multiply(lane, _M1, out=lane)
    np.right_shift(lane, _S33, out=scratch)
    np.bitwise_xor(lane, scratch, out=lane)
    np.multiply(lane, _M2, out=lane)
    np.right_shift(lane, _S33, out=scratch)
    np.bitwise_xor(lane, scratch, out=lane)


def _column_words(column: pa.Array, kind: str) -> tuple[tuple[U64, U64], NDArray[np.bool_] | None]:
    null = None
    if column.null_count:
        null = column.is_null().to_numpy(zero_copy_only=False)
    if kind in ("text", "json", "bytes", "date"):
        return _text_words(column, as_json=kind == "json"), null
    if kind == "float":
        floats = pc.fill_null(column, 0.0) if null is not None else column
        values = np.ascontiguousarray(floats.to_numpy(zero_copy_only=False), dtype=np.float64)
        bits = values.view(np.uint64)
        nans = np.isnan(values)
        if nans.any():
            bits = bits.copy()
            bits[nans] = _NAN_BITS
        return (bits, bits), null
    whole = column.cast(pa.int64()) if kind != "int" else column
    if null is not None:
        whole = pc.fill_null(whole, 0)
    words = np.ascontiguousarray(whole.to_numpy(zero_copy_only=False), dtype=np.int64).view(np.uint64)
    return (words, words), null


def _text_words(column: pa.Array, *, as_json: bool) -> tuple[U64, U64]:
    # Most text repeats (run IDs, keys), so only distinct values are hashed.
    encoded = column.dictionary_encode()
    values = encoded.dictionary
    if as_json:
        digests = [
            xxhash.xxh3_128_digest(canonical_json(text).encode("utf-8", "surrogatepass")) for text in values.to_pylist()
        ]
    else:
        digests = [xxhash.xxh3_128_digest(raw) for raw in values.cast(pa.binary()).to_pylist()]
    if not digests:
        zeros = np.zeros(len(column), dtype=np.uint64)
        return zeros, zeros
    halves = np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64).reshape(-1, 2)
    indices = encoded.indices
    if not indices.null_count:
        where = indices.to_numpy(zero_copy_only=False)
        return halves[where, 0], halves[where, 1]
    where = pc.fill_null(indices, 0).to_numpy(zero_copy_only=False)
    null = indices.is_null().to_numpy(zero_copy_only=False)
    first, second = halves[where, 0], halves[where, 1]
    first[null] = 0
    second[null] = 0
    return first, second


def lane_sum(high: U64, low: U64) -> int:
    """The sum modulo 2**128 of row hashes given as two lanes (``high`` is the upper 64 bits)."""
    return ((_exact_sum(high) << 64) + _exact_sum(low)) % MODULUS


def _exact_sum(lane: U64) -> int:
    # Halves of 32 bits cannot overflow 64 bits below 2**32 rows a batch.
    return (int((lane >> _S32).sum(dtype=np.uint64)) << 32) + int((lane & _LOW32).sum(dtype=np.uint64))


class TableHash:
    """The running hash and count of one table (or of some of its columns)."""

    def __init__(self, table: str, kinds: Mapping[str, str]) -> None:
        self.table = table
        self.kinds = dict(kinds)
        self.rows = 0
        self._sum = 0

    def add(self, rows: pa.RecordBatch) -> None:
        """Take in ``rows``; they must have exactly the columns of ``kinds``, in any order."""
        if rows.num_rows:
            high, low = row_hashes(self.table, rows, self.kinds)
            self._sum = (self._sum + lane_sum(high, low)) % MODULUS
            self.rows += rows.num_rows

    def take(self, rows: int, hexdigest: str) -> None:
        """Take in the hash of other rows of the same table."""
        self._sum = (self._sum + int(hexdigest, 16)) % MODULUS
        self.rows += rows

    @property
    def hexdigest(self) -> str:
        """32 hexadecimal digits."""
        return f"{self._sum:032x}"
