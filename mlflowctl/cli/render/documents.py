"""From a document to text: ``table`` for people, ``json`` and ``yaml`` for machines."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlflowctl.cli.render import config, migrate

if TYPE_CHECKING:
    from mlflowctl.cli.render.terminal import Screen

Document = dict[str, Any]

TABLES: tuple[tuple[str, Callable[[Document, Screen, int], str]], ...] = (
    ("mlflowctl.migrate.result/v1", migrate.migration),
    ("mlflowctl.verify.result/v1", migrate.verification),
    ("mlflowctl.migrate.status/v1", migrate.standing),
    ("mlflowctl.migrate.abort/v1", migrate.aborted),
    ("mlflowctl.config.show/v1", config.show),
    ("mlflowctl.config.check/v1", config.check),
    ("mlflowctl.config.init/v1", config.init),
)
"""For each schema what draws it for people; a document without one is shown as JSON."""


def render(document: Document, output: str, screen: Screen, *, verbosity: int = 0) -> str:
    """The text of ``document``, with a line end, or nothing."""
    if output == "json":
        return to_json(document)
    if output == "yaml":
        return to_yaml(document)
    schema = document.get("schema")
    for name, draw in TABLES:
        if name == schema:
            return draw(document, screen, verbosity)
    return "" if document.get("error") else to_json(document)


def to_json(document: Document) -> str:
    """Strict JSON: NaN and infinities are texts."""
    return json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_yaml(document: Document) -> str:
    """The same document in YAML."""
    import yaml

    text: str = yaml.safe_dump(_plain(document), sort_keys=False, allow_unicode=True, width=1_000_000)
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(member) for member in value]
    if isinstance(value, str):  # a lone surrogate cannot be written as UTF-8
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value
