"""``meta.yaml`` and its kin.

PyYAML with its C parser takes 0.3 ms for a run's file, which is most of the time of reading a small run. What MLflow
writes is nearly always flat and plain, so those files are read by ``parse_flat``; those of traces, with mappings inside
and long texts folded over lines, by ``parse_block``. Both return exactly what PyYAML would or nothing at all; everything
else goes to PyYAML. A property test holds them against each other.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TextLoader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

_KEYS = frozenset(
    [
        "artifact_location",
        "artifact_uri",
        "client_request_id",
        "creation_time",
        "creation_timestamp",
        "current_stage",
        "deleted_time",
        "deployment_job_id",
        "deployment_job_state",
        "description",
        "destination_id",
        "destination_type",
        "digest",
        "effective_trace_archival_retention",
        "end_time",
        "entry_point_name",
        "execution_duration_ms",
        "execution_time_ms",
        "experiment_id",
        "last_update_time",
        "last_updated_timestamp",
        "lifecycle_stage",
        "model_id",
        "model_type",
        "name",
        "profile",
        "request_id",
        "request_preview",
        "request_time",
        "response_preview",
        "run_id",
        "run_link",
        "run_name",
        "run_uuid",
        "schema",
        "source",
        "source_id",
        "source_name",
        "source_run_id",
        "source_type",
        "source_version",
        "start_time",
        "state",
        "status",
        "status_message",
        "step",
        "storage_location",
        "tags",
        "timestamp_ms",
        "trace_id",
        "trace_location",
        "user_id",
        "version",
        "workspace",
    ]
)
# A plain scalar that begins so and holds no ": ", no " #" and no ":" at its end is text, whatever else it holds,
# unless it is one of the words below (YAML 1.1 resolves numbers and times by a digit, sign or dot in front).
_PLAIN = re.compile(r"[A-Za-z/][!-~]*(?: [!-~]+)*")
_WORDS = frozenset({"yes", "no", "true", "false", "on", "off", "null"})
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_SPELLED = re.compile(r"\s*[+-]?[0-9]{1,19}(?:\.0*)?\s*")
_INT64 = range(-(1 << 63), 1 << 63)
_HEX_ID = re.compile(r"(?=[0-9]*[ac-f])[0-9a-f]{32}")
_QUOTED = re.compile(r"'([ -&(-~]*)'")
_CONSTANTS: dict[str, Any] = {"null": None, "''": "", "true": True, "false": False}


# What PyYAML takes for printable and for no end of line, or a part of it that is enough.
_PRINTABLE = "\\u00a1-\\u1fff\\u2010-\\u2027\\u2030-\\u205e\\u3001-\\ud7ff\\U0001f300-\\U0001faff"
_KEY = re.compile(r"( *)([A-Za-z_][A-Za-z0-9_.]*):(?=[ \n])")
_SINGLE = re.compile(rf"'((?:[ -&(-~\n{_PRINTABLE}]|'')*)'(?:\n|\Z)")
_TEXT = re.compile(rf"[A-Za-z/][!-~{_PRINTABLE}]*(?: +[!-~{_PRINTABLE}]+)*")
_MORE = re.compile(rf"[!-~{_PRINTABLE}]+(?: +[!-~{_PRINTABLE}]+)*")
_FLOAT = re.compile(r"-?[0-9]{1,17}\.[0-9]{1,17}(?:e[+-][0-9]{1,3})?")
_FOLDED = re.compile(r" *\n(\n*) *")
_NOTHING = object()


class MalformedError(Exception):
    """A file that does not say what it must. ``line`` counts from 1; ``rule`` where it is not that of its kind."""

    def __init__(self, text: str, line: int | None = None, rule: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.line = line
        self.rule = rule


def parse_flat(text: str) -> dict[str, Any] | None:
    """The mapping of a flat, plain YAML document, or None when it is anything but that."""
    values: dict[str, Any] = {}
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    for line in lines:
        key, separator, value = line.partition(": ")
        if not separator or key not in _KEYS:
            return None
        if value in _CONSTANTS:
            values[key] = _CONSTANTS[value]
        elif _INTEGER.fullmatch(value):
            values[key] = int(value)
        elif _HEX_ID.fullmatch(value):
            values[key] = value
        elif _PLAIN.fullmatch(value):
            if ": " in value or " #" in value or value[-1] == ":" or value.lower() in _WORDS:
                return None
            values[key] = value
        elif quoted := _QUOTED.fullmatch(value):
            values[key] = quoted.group(1)
        elif value in ("[]", "{}"):
            values[key] = [] if value == "[]" else {}
        else:
            return None
    return values or None


def parse_block(text: str) -> dict[str, Any] | None:
    """The mapping of a YAML document of mappings, plain and single-quoted scalars, or None when it is anything but that."""
    found = _mapping(text, 0, 0)
    return found[0] if found is not None and found[1] == len(text) else None


def _mapping(text: str, place: int, indent: int) -> tuple[dict[str, Any], int] | None:
    """The mapping whose lines begin at ``place`` with ``indent`` blanks, and where it ends."""
    values: dict[str, Any] = {}
    size = len(text)
    while place < size:
        found = _KEY.match(text, place)
        if found is None:
            return None
        depth = len(found[1])
        if depth < indent and values:
            break
        key = found[2]
        if depth != indent or key.lower() in _WORDS:
            return None
        place = found.end()
        if text[place] == "\n":
            inner = _mapping(text, place + 1, indent + 2)
            if inner is None:
                return None
            values[key], place = inner
            continue
        place += 1
        if text.startswith("'", place):
            quoted = _SINGLE.match(text, place)
            if quoted is None:
                return None
            value: Any = quoted[1].replace("''", "'")
            if "\n" in value:
                # Its lines must not begin in the first column, where they may mean something else.
                if re.search(r"\n[^ \n]|\n +\n", value):
                    return None
                value = _FOLDED.sub(lambda m: m[1] or " ", value)
            values[key], place = value, quoted.end()
            continue
        end = text.find("\n", place)
        end = size if end < 0 else end
        line, place = text[place:end], end + 1 if end < size else end
        value = _scalar(line)
        while text.startswith(" " * (indent + 1), place):
            # Plain text goes on.
            end = text.find("\n", place)
            end = size if end < 0 else end
            line, place = text[place:end].strip(" "), end + 1 if end < size else end
            if type(value) is not str or value == "" or not _plain(_MORE, line) or line[0] == "#":
                return None
            value += " " + line
        if value is _NOTHING:
            return None
        values[key] = value
    return (values, place) if values else None


def _scalar(line: str) -> Any:
    if line in _CONSTANTS:
        return _CONSTANTS[line]
    if _INTEGER.fullmatch(line):
        return int(line)
    if _FLOAT.fullmatch(line):
        return float(line)
    if _HEX_ID.fullmatch(line) or (_plain(_TEXT, line) and line.lower() not in _WORDS):
        return line
    return _NOTHING


def _plain(pattern: re.Pattern[str], line: str) -> bool:
    return pattern.fullmatch(line) is not None and ": " not in line and " #" not in line and line[-1] != ":"


class Fields:
    """The mapping of one YAML file, with its values asked for by kind.

    With ``mend`` what is not UTF-8 becomes replacement characters, NUL is dropped, and a value of another type is
    converted where that is exact; ``faults`` then says what was wrong.

    Raises:
        MalformedError: the file is empty, no valid UTF-8 or YAML, or no mapping. Each method raises it when the value
            is not what it must be.
    """

    __slots__ = ("_flat", "_mend", "_mended", "_text", "_text_changed", "faults", "values")

    def __init__(self, data: bytes, *, mend: bool = False) -> None:
        self.faults: list[str] = []
        self._mend = mend
        self._mended: dict[str, Any] = {}
        try:
            self._text = data.decode("utf-8")
        except UnicodeDecodeError as bad:
            if not mend:
                line = data.count(b"\n", 0, bad.start) + 1
                raise MalformedError("is not valid UTF-8", line) from None
            self._text = data.decode("utf-8", "replace")
            self.faults.append("is not valid UTF-8")
        if mend and "\0" in self._text:
            self._text = self._text.replace("\0", "")
            self.faults.append("holds NUL characters")
        self._text_changed = bool(self.faults)
        values = parse_flat(self._text)
        self._flat = values is not None
        if values is None:
            values = parse_block(self._text)
        if values is None:
            values = self._load(_Loader)
        self.values = values

    def _load(self, loader: Any) -> dict[str, Any]:
        try:
            values = yaml.load(self._text, Loader=loader)  # noqa: S506 - one of PyYAML's safe loaders
        except yaml.MarkedYAMLError as bad:
            mark = bad.problem_mark or bad.context_mark
            line = mark.line + 1 if mark is not None else None
            raise MalformedError(f"is no valid YAML: {bad.problem or bad.context}", line) from None
        except (yaml.YAMLError, ValueError, RecursionError) as bad:
            # ValueError: a date that no calendar has.
            raise MalformedError(f"is no valid YAML: {str(bad).splitlines()[0]}") from None
        if values is None:
            raise MalformedError("is empty")
        if not isinstance(values, dict):
            raise MalformedError("holds no mapping of names to values")
        return values

    def _fault(self, name: str, text: str) -> MalformedError:
        found = re.search(rf"^ *{re.escape(name)} *:", self._text, re.MULTILINE)
        line = self._text.count("\n", 0, found.start()) + 1 if found else None
        return MalformedError(text, line)

    def mend(self, name: str, value: Any, text: str) -> bool:
        """Whether ``value`` may stand in for what the file has under ``name``; ``text`` says what is wrong with that."""
        if self._mend:
            self._mended[name] = value
            self.faults.append(text)
        return self._mend

    def changed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What differs from the file: the values that were mended, and the row's texts where characters were."""
        texts = {n: v for n, v in row.items() if isinstance(v, str)} if self._text_changed else {}
        if self.faults and not any(f.startswith("holds NUL") for f in self.faults):
            texts = {n: v for n, v in texts.items() if "\ufffd" in v}
        return {**texts, **self._mended}

    def text(self, name: str) -> str | None:
        """A text, or None when it is null or absent. A number or date that stands there counts as its own spelling."""
        value = self.values.get(name)
        if value is None or type(value) is str:
            return value
        if isinstance(value, (dict, list)):
            raise self._fault(name, f"has no text under {name!r}")
        if self._flat:  # its numbers have one spelling, and MLflow 0.8 wrote IDs as numbers
            return str(value).lower()
        return str(self._load(_TextLoader)[name])

    def required_text(self, name: str) -> str:
        """A text that must be there, if need be empty."""
        value = self.text(name)
        if value is None:
            raise self._fault(name, f"names no {name!r}")
        return value

    def integer(self, name: str) -> int | None:
        """A whole number of 64 bits, or None when it is null or absent."""
        value = self.values.get(name)
        if value is None:
            return None
        if type(value) is str and _INTEGER.fullmatch(value):
            value = int(value)
        if type(value) is not int:
            fault = f"has no whole number under {name!r}"
            value = _exact(value)
            if value is None or value not in _INT64 or not self.mend(name, value, fault):
                raise self._fault(name, fault)
        if not -(1 << 63) <= value < 1 << 63:
            raise self._fault(name, f"has a number under {name!r} that 64 bits cannot hold")
        return value

    def required_integer(self, name: str) -> int:
        """A whole number that must be there."""
        value = self.integer(name)
        if value is None:
            raise self._fault(name, f"names no {name!r}")
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """A mapping; empty when it is null or absent."""
        value = self.values.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._fault(name, f"has no mapping under {name!r}")
        return value

    def choice(self, name: str, choices: Mapping[int, str], default: int, unknown: int) -> str:
        """The word that a number stands for. ``unknown``: what a state that nobody knows is mended to."""
        number = self.values.get(name, default)
        if type(number) is int and number in choices:
            return choices[number]
        fault = f"has {number!r} under {name!r}, which is none of {sorted(choices)}"
        if type(number) not in (int, float, str):
            raise self._fault(name, fault)
        word = choices.get(_exact(number) or 0)
        if word is None:
            spelled = str(number).strip().upper()
            alike = difflib.get_close_matches(spelled, choices.values(), 1, 0.7)
            word = alike[0] if alike else choices[unknown]
        if not self.mend(name, word, fault):
            raise self._fault(name, fault)
        return word


def _exact(value: object) -> int | None:
    """The whole number that a value of another type stands for exactly (``'12'``, 12.0)."""
    if type(value) is float and value.is_integer():
        return int(value)
    if type(value) is str and _SPELLED.fullmatch(value):
        return int(value.partition(".")[0])
    return value if type(value) is int else None
