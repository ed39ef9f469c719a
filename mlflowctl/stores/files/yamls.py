"""``meta.yaml`` and its kin.

PyYAML with its C parser takes 0.3 ms for a run's file, which is most of the time of reading a small run. What MLflow
writes is nearly always flat and plain, so those files are read by ``parse_flat``, which returns exactly what PyYAML
would or nothing at all; everything else goes to PyYAML. A property test holds the two against each other.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

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
_HEX_ID = re.compile(r"(?=[0-9]*[ac-f])[0-9a-f]{32}")
_QUOTED = re.compile(r"'([ -&(-~]*)'")
_CONSTANTS: dict[str, Any] = {"null": None, "''": "", "true": True, "false": False}


class MalformedError(Exception):
    """A file that does not say what it must. ``line`` counts from 1."""

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.line = line


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


class Fields:
    """The mapping of one YAML file, with its values asked for by kind.

    Raises:
        MalformedError: the file is empty, no valid UTF-8 or YAML, or no mapping. Each method raises it when the value
            is not what it must be.
    """

    __slots__ = ("_flat", "_text", "values")

    def __init__(self, data: bytes) -> None:
        try:
            self._text = data.decode("utf-8")
        except UnicodeDecodeError as bad:
            line = data.count(b"\n", 0, bad.start) + 1
            raise MalformedError("is not valid UTF-8", line) from None
        values = parse_flat(self._text)
        self._flat = values is not None
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
            raise self._fault(name, f"has no whole number under {name!r}")
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

    def choice(self, name: str, choices: dict[int, str], default: int) -> str:
        """The word that a number stands for."""
        number = self.values.get(name, default)
        if type(number) is not int or number not in choices:
            raise self._fault(name, f"has {number!r} under {name!r}, which is none of {sorted(choices)}")
        return choices[number]
