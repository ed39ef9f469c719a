"""How each of MLflow's tables hangs on experiments, runs, models and traces: what a selection goes by.

Every table that the schema data has ever had stands in ``LINKS`` or in ``SERVER_WIDE``; one that stands in neither
makes a selection refuse, for its rows could be neither carried nor left with a good conscience.

An object is one of the kinds below. ``experiment`` means every experiment that is carried, also one whose row comes
along for the sake of a run; ``chosen_experiment`` those that were chosen; ``whole_experiment`` those of which nothing
is left behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflowctl.stores.schema import Schema


@dataclass(frozen=True, slots=True)
class Link:
    """The object that a row names, and without which it is not carried.

    ``columns`` hold its key; a NULL names nothing and asks for nothing. ``workspace`` counts where the revision has it.
    ``when`` restricts the link to rows whose column holds one of some words.
    """

    kind: str
    columns: tuple[str, ...]
    when: tuple[str, tuple[str, ...]] | None = None


RUN_ENDS = ("RUN", "RUN_INPUT", "RUN_OUTPUT")
"""What ``inputs`` calls a run."""
MODEL_ENDS = ("MODEL", "MODEL_INPUT", "MODEL_OUTPUT")
"""What ``inputs`` calls a logged model."""

_EXPERIMENT = Link("experiment", ("experiment_id",))
_CHOSEN = Link("chosen_experiment", ("experiment_id",))
_WHOLE = Link("whole_experiment", ("experiment_id",))
_RUN = Link("run", ("run_uuid",))
_TRACE = Link("trace", ("trace_id",))
_REQUEST = Link("trace", ("request_id",))
_LOGGED_MODEL = Link("logged_model", ("model_id",))
_REGISTERED_MODEL = Link("registered_model", ("workspace", "name"))
_MODEL_VERSION = Link("model_version", ("workspace", "name", "version"))
_EVALUATION_DATASET = Link("evaluation_dataset", ("dataset_id",))
_SCORER = Link("scorer", ("scorer_id",))
_ISSUE = Link("issue", ("issue_id",))
_QUEUE = Link("queue", ("queue_id",))
_ENDPOINT = Link("endpoint", ("endpoint_id",))
_GUARDRAIL = Link("guardrail", ("guardrail_id",))


def _associated(end: str) -> tuple[Link, ...]:
    kinds = {
        "experiment": "experiment",
        "run": "run",
        "trace": "trace",
        "evaluation_dataset": "evaluation_dataset",
        "model": "logged_model",
    }
    return tuple(Link(kind, (f"{end}_id",), (f"{end}_type", (word,))) for word, kind in kinds.items())


LINKS: dict[str, tuple[Link, ...]] = {
    "experiments": (_EXPERIMENT,),
    "experiment_tags": (_EXPERIMENT,),
    "runs": (_RUN,),
    "params": (_RUN,),
    "tags": (_RUN,),
    "metrics": (_RUN,),
    "latest_metrics": (_RUN,),
    "datasets": (Link("dataset", ("dataset_uuid",)),),
    # The run's end decides: what it used or made may be gone from the source, and the row stays part of the run.
    "inputs": (
        Link("run", ("source_id",), ("source_type", RUN_ENDS)),
        Link("run", ("destination_id",), ("destination_type", RUN_ENDS)),
    ),
    "input_tags": (Link("input", ("input_uuid",)),),
    "logged_models": (_LOGGED_MODEL,),
    "logged_model_params": (_LOGGED_MODEL,),
    "logged_model_tags": (_LOGGED_MODEL,),
    # The run is a foreign key: its points stay behind where it does.
    "logged_model_metrics": (_LOGGED_MODEL, Link("run", ("run_id",))),
    "trace_info": (_REQUEST,),
    "trace_tags": (_REQUEST,),
    "trace_request_metadata": (_REQUEST,),
    "trace_metrics": (_REQUEST,),
    "spans": (_TRACE,),
    "span_metrics": (_TRACE,),
    "assessments": (_TRACE,),
    "entity_associations": (*_associated("source"), *_associated("destination")),
    "evaluation_datasets": (_EVALUATION_DATASET,),
    "evaluation_dataset_tags": (_EVALUATION_DATASET,),
    "evaluation_dataset_records": (_EVALUATION_DATASET,),
    "registered_models": (_REGISTERED_MODEL,),
    "registered_model_tags": (_REGISTERED_MODEL,),
    "registered_model_aliases": (_REGISTERED_MODEL, _MODEL_VERSION),
    "model_versions": (_MODEL_VERSION,),
    "model_version_tags": (_MODEL_VERSION,),
    # What was set up in an experiment goes with it, not with single runs of it.
    "issues": (_CHOSEN, Link("run", ("source_run_id",))),
    "issue_categories": (_ISSUE,),
    "label_schemas": (_CHOSEN,),
    "review_queues": (_CHOSEN,),
    "review_queue_users": (_QUEUE,),
    "review_queue_label_schemas": (_QUEUE,),
    "review_queue_items": (_QUEUE, Link("trace", ("item_id",), ("item_type", ("trace",)))),
    "scorers": (_CHOSEN,),
    "scorer_versions": (_SCORER,),
    "online_scoring_configs": (_SCORER, _CHOSEN),
    # Sums over all traces of an experiment are wrong as soon as one stays behind; MLflow then reads the traces.
    "sql_assessment_daily_rollups": (_WHOLE,),
    "sql_span_cost_daily_rollups": (_WHOLE,),
    "sql_trace_metric_daily_rollups": (_WHOLE,),
    "sql_trace_rollup_rebuild_queue": (_WHOLE,),
    # The gateway is server-wide, but for an endpoint that reports into an experiment that is left out.
    "endpoints": (_EXPERIMENT,),
    "endpoint_tags": (_ENDPOINT,),
    "endpoint_model_mappings": (_ENDPOINT,),
    "endpoint_bindings": (_ENDPOINT, Link("scorer", ("resource_id",), ("resource_type", ("scorer",)))),
    "guardrails": (_SCORER, Link("endpoint", ("action_endpoint_id",))),
    "guardrail_configs": (_ENDPOINT, _GUARDRAIL),
    # A job names its experiment, if any, in its parameters.
    "jobs": (Link("job", ("id",)),),
    "job_locks": (Link("job", ("job_id",)),),
}

SERVER_WIDE: dict[str, str] = {
    "workspaces": "other tables name them without a foreign key",
    "secrets": "the gateway's, encrypted with a passphrase that only the server knows",
    "model_definitions": "the gateway's",
    "budget_policies": "the gateway's",
    "webhooks": "the registry's",
    "webhook_events": "the registry's",
    "mcp_servers": "no experiment's",
    "mcp_server_versions": "no experiment's",
    "mcp_server_aliases": "no experiment's",
    "mcp_server_tags": "no experiment's",
    "mcp_server_version_tags": "no experiment's",
    "mcp_access_endpoints": "no experiment's",
    "skills": "no experiment's",
    "skill_versions": "no experiment's",
    "skill_aliases": "no experiment's",
    "skill_tags": "no experiment's",
    "skill_version_tags": "no experiment's",
    "scheduler_leases": "the server's own",
}
"""Tables that belong to no experiment, run or model, and why. They are always carried."""

DERIVED: dict[str, tuple[str, str]] = {
    "scorer": ("scorers", "scorer_id"),
    "issue": ("issues", "issue_id"),
    "queue": ("review_queues", "queue_id"),
    "endpoint": ("endpoints", "endpoint_id"),
    "guardrail": ("guardrails", "guardrail_id"),
}
"""Kinds of objects that are carried when their own row is: table and key. Each follows those that it depends on."""

_BROUGHT = frozenset(
    {
        ("runs", "experiment_id"),
        ("datasets", "experiment_id"),
        ("trace_info", "experiment_id"),
        ("spans", "experiment_id"),
        ("logged_models", "experiment_id"),
        ("logged_model_params", "experiment_id"),
        ("logged_model_tags", "experiment_id"),
        ("logged_model_metrics", "experiment_id"),
        ("model_versions", "name"),
        ("model_versions", "workspace,name"),
    }
)
"""Foreign keys whose object the closure always brings along, so that no row need be asked."""
_IMPLIED = {"experiment": ("experiment", "chosen_experiment", "whole_experiment")}


def unknown(schema: Schema) -> list[str]:
    """The tables of a schema, and the foreign keys (``table.column``), for which no link is known."""
    found = [name for name in schema.tables if name not in LINKS and name not in SERVER_WIDE]
    for name, table in schema.tables.items():
        for key in table.foreign_keys:
            place = f"{name}.{','.join(key.columns)}"
            if name in found or key.table in SERVER_WIDE or (name, ",".join(key.columns)) in _BROUGHT:
                continue
            if key.table not in LINKS or not _covered(
                name, dict(zip(key.ref_columns, key.columns, strict=True)), key.table
            ):
                found.append(place)
    return found


def _covered(table: str, mapped: dict[str, str], parent: str) -> bool:
    """Whether a row that is carried always has its parent carried: it names all that the parent's row depends on."""
    own = LINKS.get(table, ())
    for kind, (home, key) in DERIVED.items():
        # The key of such a parent says all, whatever its row depends on.
        if home == parent and key in mapped and Link(kind, (mapped[key],)) in own:
            return True
    for link in LINKS[parent]:
        columns = tuple(mapped[c] for c in link.columns if c in mapped)
        if len(columns) < len([c for c in link.columns if c != "workspace"]):
            return False
        if not any(
            o.kind in _IMPLIED.get(link.kind, (link.kind,))
            and o.when is None
            and tuple(c for c in o.columns if c != "workspace") == tuple(c for c in columns if c != "workspace")
            for o in own
        ):
            return False
    return True
