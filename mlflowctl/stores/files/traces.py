"""Traces with their tags, metadata and assessments, in the form that MLflow 3.17 keeps them in SQL.

Spans are no part of it: they lie among the artifacts, below the tag ``mlflow.artifactLocation``, and stay there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timezone
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from mlflowctl.stores.files.layout import ASSESSMENTS, REQUEST_METADATA, TAGS, TRACE_INFO, TRACES
from mlflowctl.stores.files.pairs import add_pairs, as_text, read_pairs
from mlflowctl.stores.files.stamps import TRACE
from mlflowctl.stores.files.yamls import Fields, MalformedError

if TYPE_CHECKING:
    from mlflowctl.stores.files.ids import Ids
    from mlflowctl.stores.files.layout import ExperimentFolder
    from mlflowctl.stores.files.walk import Walk

_RULE = "malformed_trace"
_TABLES = ("trace_info", "trace_tags", "trace_request_metadata", "assessments")
_NAME_TAG = "mlflow.traceName"
_SESSION, _TOKENS, _COST = "mlflow.trace.session", "mlflow.trace.tokenUsage", "mlflow.trace.cost"
_TOKEN_KEYS = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation_input_tokens_above_1hr",
)
_COST_KEYS = ("input_cost", "output_cost", "total_cost")
_STATES = frozenset({"STATE_UNSPECIFIED", "OK", "ERROR", "IN_PROGRESS"})
_SOURCE_RUN = "mlflow.assessment.sourceRunId"
_SOURCE_TYPES = frozenset({"SOURCE_TYPE_UNSPECIFIED", "LLM_JUDGE", "HUMAN", "CODE"})
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})\d*)?(?:([Zz])|([+-])(\d\d):(\d\d))")
_DURATION = re.compile(r"(-?)(\d+)(?:\.(\d{1,9}))?s")
_BIGINT = range(-(1 << 63), 1 << 63)


def give_traces(walk: Walk, folder: ExperimentFolder, number: int, ids: Ids) -> Iterator[None]:
    """Trace after trace of an experiment; yields whenever rows may be ready."""
    if not walk.tables.wants(*_TABLES):
        return
    base = f"{folder.path}/{TRACES}"
    for name in walk.names(base, "trace_info") or []:
        path = f"{base}/{name}"
        names = walk.names(path)
        if names is None:
            walk.normal("stray_file")
        elif TRACE_INFO not in names:
            walk.normal("trace_folder_without_trace_info")
            if any(walk.names(f"{path}/{n}") for n in (TAGS, REQUEST_METADATA, ASSESSMENTS) if n in names):
                walk.left_behind(
                    "trace folders without trace_info.yaml that hold tags, metadata or assessments",
                    "no file says when the trace was and how it ended; MLflow does not show them either",
                )
        else:
            _give_trace(walk, folder, number, name, path, ids)
            yield


def _give_trace(walk: Walk, folder: ExperimentFolder, number: int, name: str, path: str, ids: Ids) -> None:
    file = f"{path}/{TRACE_INFO}"
    walk.about("trace_info", {"request_id": name}, path)
    fields = walk.fields(file, _RULE)
    row: dict[str, Any] | None = None
    if fields is not None:
        try:
            row = _trace_row(walk, folder, number, name, file, fields)
        except MalformedError as bad:
            walk.malformed(file, bad, _RULE)
    if walk.lenient:
        twice = ids.claimed(name, folder.path) if row is not None else None
        if twice is not None:
            walk.reject(ids.rule, file, twice)
        if row is None or fields is None or twice is not None:
            walk.stamps.unread_thing(TRACE, folder, name)
            return
        walk.mended(file, fields, row, _RULE)
    muted, walk.muted = walk.muted, walk.muted or row is None
    owner = {"request_id": name}
    promoted = _give_without(walk, "trace_tags", f"{path}/{TAGS}", owner, (_NAME_TAG,))
    promoted |= _give_without(
        walk, "trace_request_metadata", f"{path}/{REQUEST_METADATA}", owner, (_SESSION, _TOKENS, _COST)
    )
    if row is not None and not walk.muted:
        row.update(_columns_of_metadata(walk, promoted), trace_name=promoted.get(_NAME_TAG))
        walk.tables.add("trace_info", **row)
    if walk.tables.wants("assessments"):
        time = 0 if row is None else row["timestamp_ms"]
        for entry in walk.names(f"{path}/{ASSESSMENTS}", "assessments") or []:
            if entry.endswith(".yaml"):
                _give_assessment(walk, f"{path}/{ASSESSMENTS}/{entry}", entry[:-5], name, number, time)
            else:
                walk.normal("stray_file")
    walk.muted = muted
    walk.stamps.thing(TRACE, folder, name)
    if not walk.lenient:
        ids.add(name, folder.path)


def _give_without(
    walk: Walk, table: str, folder: str, owner: Mapping[str, str], promoted: tuple[str, ...]
) -> dict[str, str]:
    """The rows of a folder of keys, without those that MLflow 3.17 keeps in columns: these are returned as text."""
    walk.about(table, owner)
    keys, values = read_pairs(walk, folder)
    found: dict[str, str] = {}
    for key in promoted:
        if key in keys:
            place = keys.index(key)
            text = as_text(walk, f"{folder}/{key}", values[place], {"key": key})
            if text is not None:
                found[key] = text
            del keys[place], values[place]
    add_pairs(walk, table, folder, owner, keys, values)
    return found


def _trace_row(
    walk: Walk, folder: ExperimentFolder, number: int, name: str, file: str, fields: Fields
) -> dict[str, Any] | None:
    if "request_id" in fields.values:  # MLflow 2.13 to 3.1
        identity = fields.required_text("request_id")
        experiment = fields.text("experiment_id")
        time: int | None = fields.required_integer("timestamp_ms")
        duration = fields.integer("execution_time_ms")
        state = fields.required_text("status")
        state = "STATE_UNSPECIFIED" if state == "TRACE_STATUS_UNSPECIFIED" else state
    else:
        identity = fields.required_text("trace_id")
        location = fields.mapping("trace_location").get("mlflow_experiment")
        experiment = location.get("experiment_id") if isinstance(location, dict) else None
        time = milliseconds(fields.values.get("request_time"))
        if time is None:
            raise MalformedError("has no time under 'request_time'")
        duration = fields.integer("execution_duration_ms")
        if duration is None and fields.values.get("execution_duration") is not None:
            duration = _duration(fields.required_text("execution_duration"))
        state = fields.required_text("state")
    if identity != name:
        walk.trouble("trace_id_mismatch", file, f"names the trace {identity}, but lies in {name}")
        return None
    if experiment is not None and str(experiment) != folder.name:
        walk.trouble(
            "trace_of_another_experiment", file, f"names the experiment {experiment}, but lies in {folder.name}"
        )
        return None
    if state not in _STATES:
        fault = f"has the unknown state {state!r}"
        state = "STATE_UNSPECIFIED"
        if not fields.mend("state", state, fault):
            raise MalformedError(fault)
    return {
        "request_id": name,
        "experiment_id": number,
        "timestamp_ms": time,
        "execution_time_ms": duration,
        "status": state,
        "client_request_id": fields.text("client_request_id"),
        "request_preview": fields.text("request_preview"),
        "response_preview": fields.text("response_preview"),
        "db_payload_generation": 0,
    }


def milliseconds(value: object) -> int | None:
    """A time as protobuf writes it in JSON (``2025-04-15T08:49:18.699Z``), in ms since 1970; None when it is none."""
    if isinstance(value, datetime):
        value = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
        return math.floor(value.timestamp()) * 1000 + value.microsecond // 1000
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    try:
        year, month, day, hour, minute, second = (int(found[i]) for i in range(1, 7))
        whole = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc)
    except ValueError:
        return None
    seconds = round(whole.timestamp())
    if found[9]:
        offset = int(found[10]) * 3600 + int(found[11]) * 60
        seconds += -offset if found[9] == "+" else offset
    return seconds * 1000 + int((found[7] or "0").ljust(9, "0")) // 1_000_000


def _duration(text: str) -> int:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise MalformedError(f"has no duration under 'execution_duration': {text!r}")
    total = int(found[2]) * 1000 + int((found[3] or "0").ljust(9, "0")) // 1_000_000
    return -total if found[1] else total


def _columns_of_metadata(walk: Walk, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What MLflow 3.17 moved from metadata rows into columns of ``trace_info``."""
    columns: dict[str, Any] = {}
    if _SESSION in metadata:
        columns["session_id"] = metadata[_SESSION]
    for key, names, convert in ((_TOKENS, _TOKEN_KEYS, _token_count), (_COST, _COST_KEYS, _cost)):
        if key not in metadata:
            continue
        try:
            found = json.loads(metadata[key])
        except ValueError:
            found = None
        found = found if isinstance(found, dict) else {}
        taken = {name: convert(found[name]) for name in names if name in found}
        columns.update(taken)
        if not found or set(found) - set(names) or any(taken[n] is None and found[n] is not None for n in taken):
            walk.left_behind(
                f"parts of the trace metadata {key}", "MLflow 3.17 keeps only the counts that it has columns for"
            )
    return columns


def _token_count(value: Any) -> int | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        number = Decimal(str(value))
    except (InvalidOperation, ValueError):
        return None
    if not number.is_finite() or number != number.to_integral_value():
        return None
    return int(number) if int(number) in _BIGINT else None


def _cost(value: Any) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _give_assessment(walk: Walk, file: str, stem: str, trace: str, number: int, time: int) -> None:
    rule = "malformed_assessment"
    walk.about("assessments", {"assessment_id": stem, "trace_id": trace})
    fields = walk.fields(file, rule)
    if fields is None:
        return
    try:
        row = _assessment_row(fields, stem, trace)
    except MalformedError as bad:
        walk.malformed(file, bad, rule)
        return
    walk.mended(file, fields, row, rule)
    walk.tables.add("assessments", **row, experiment_id=number, trace_timestamp_ms=time)


def _assessment_row(fields: Fields, stem: str, trace: str) -> dict[str, Any]:
    kind, value, error = _value(fields)
    source = fields.mapping("source")
    source_type = str(source.get("source_type", "")).upper()
    source_type = "LLM_JUDGE" if source_type == "AI_JUDGE" else source_type
    if source_type not in _SOURCE_TYPES:
        fault = f"has the unknown source_type {source.get('source_type')!r}"
        source_type = "SOURCE_TYPE_UNSPECIFIED"
        if not fields.mend("source_type", source_type, fault):
            raise MalformedError(fault)
    source_id = source.get("source_id", "default")
    created, updated = (milliseconds(fields.values.get(n)) for n in ("create_time", "last_update_time"))
    if created is None or updated is None:
        raise MalformedError("has no time under 'create_time' or 'last_update_time'")
    metadata = fields.mapping("metadata")
    valid = fields.values.get("valid", True)
    if not isinstance(valid, bool):
        raise MalformedError("has neither true nor false under 'valid'")
    aggregate, numeric = _aggregate(value if kind != "issue" else None)
    run = fields.text("run_id") or metadata.get(_SOURCE_RUN)
    return {
        "assessment_id": fields.text("assessment_id") or stem,
        "trace_id": trace,
        "name": fields.required_text("assessment_name"),
        "assessment_type": kind,
        "value": _json(value),
        "error": None if error is None else _json(error),
        "created_timestamp": created,
        "last_updated_timestamp": updated,
        "source_type": source_type,
        "source_id": None if source_id is None else str(source_id),
        "run_id": None if run is None else str(run),
        "span_id": fields.text("span_id"),
        "rationale": fields.text("rationale"),
        "overrides": fields.text("overrides"),
        "valid": valid,
        "assessment_metadata": _json(metadata) if metadata else None,
        "aggregate_value": aggregate,
        "is_numeric_value": numeric,
    }


def _value(fields: Fields) -> tuple[str, Any, dict[str, Any] | None]:
    """Kind, value and error of an assessment."""
    if fields.values.get("expectation") is not None:
        expectation = fields.mapping("expectation")
        if "value" in expectation:
            return "expectation", expectation["value"], None
        # Lists and mappings are JSON inside YAML.
        serialized = expectation.get("serialized_value")
        if isinstance(serialized, dict) and isinstance(serialized.get("value"), str):
            try:
                return "expectation", json.loads(serialized["value"]), None
            except ValueError as bad:
                raise MalformedError(f"has a serialized_value that is no JSON: {bad}") from None
        raise MalformedError("has an expectation without a value")
    if fields.values.get("feedback") is not None:
        feedback = fields.mapping("feedback")
        error = feedback.get("error") or None
        if error is not None:
            if not isinstance(error, dict) or not isinstance(error.get("error_code"), str):
                raise MalformedError("has an error without an error_code")
            error = {name: error.get(name) for name in ("error_code", "error_message", "stack_trace")}
        return "feedback", feedback.get("value"), error
    if fields.values.get("issue") is not None:
        return "issue", {"issue_name": fields.mapping("issue").get("issue_name")}, None
    raise MalformedError("has neither feedback nor expectation")


def _json(value: Any) -> str:
    """JSON text as MLflow's SQL store writes it."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        kind = "a date" if isinstance(value, date) else "a value"
        raise MalformedError(f"holds {kind} that JSON does not know: {value!r}") from None


def _aggregate(value: Any) -> tuple[float | None, bool]:
    """The columns ``aggregate_value`` and ``is_numeric_value`` of an assessment's value, by MLflow's own rule."""
    if isinstance(value, bool):
        return float(value), False
    if isinstance(value, (int, float)):
        number = _cost(value)
        return number, number is not None
    if isinstance(value, str) and value.strip().lower() in ("yes", "no"):
        return float(value.strip().lower() == "yes"), False
    return None, False
