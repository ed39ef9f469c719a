"""What editors and newcomers need: the JSON Schema of a configuration file, and a file to begin with."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from mlflowctl.config.options import GLOBAL, OPTIONS, SECTIONS, Kind, Option

_WIDTH = 100


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a configuration file."""
    properties: dict[str, Any] = {option.name: _property(option) for option in GLOBAL}
    for section, text in SECTIONS:
        members = [option for option in OPTIONS if option.section == section]
        properties[section] = {
            "type": ["object", "null"],
            "description": text,
            "properties": {option.name: _property(option) for option in members},
            "additionalProperties": False,
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mlflowctl.yaml",
        "description": "Configuration of mlflowctl.",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _property(option: Option) -> dict[str, Any]:
    schema: dict[str, Any] = {"description": option.help}
    if option.choices:
        schema["enum"] = [*option.choices, None]
    elif option.kind is Kind.INTEGER:
        schema |= {"type": ["integer", "null"], **({} if option.minimum is None else {"minimum": option.minimum})}
    elif option.kind is Kind.SWITCH:
        schema["type"] = ["boolean", "null"]
    elif option.kind is Kind.COUNT:
        schema |= {"type": ["integer", "boolean", "null"], "minimum": 0}
    elif option.kind is Kind.PAIR:
        schema["anyOf"] = [
            {"type": "array", "items": {"type": "string", "pattern": ".+=.+"}},
            {"type": "object", "additionalProperties": {"type": "string"}},
            {"type": ["string", "null"]},
        ]
    elif option.secret:
        schema["type"] = ["string", "null"]
        schema["pattern"] = "^(env|file|ssm|secretsmanager|vault)://"
    else:
        schema["type"] = ["string", "null"]
    default = option.default
    if default is not None and default != () and not callable(default):
        schema["default"] = default
    return schema


def template() -> str:
    """A commented file that changes nothing until somebody takes a ``#`` away."""
    lines = [
        "# Configuration of mlflowctl. Every value below is the default; remove the # to change one.",
        "# Order: flags, environment, .env, this file, the user's config.yaml, MLflow's variables, default.",
        "# mlflowctl config show says what counts and why; mlflowctl config check finds mistakes.",
        "",
    ]
    for option in GLOBAL:
        lines += _entry(option, "")
    for section, text in SECTIONS:
        lines += [f"# {text}", f"{section}:"]
        for option in OPTIONS:
            if option.section == section:
                lines += _entry(option, "  ")
    return "\n".join(lines).rstrip() + "\n"


def _entry(option: Option, indent: str) -> list[str]:
    words = option.help
    if option.choices:
        words += f" One of {', '.join(option.choices)}."
    if option.default_text:
        words += f" Default: {option.default_text}."
    words += f" ({option.variable})"
    comment = [f"{indent}# {line}" for line in textwrap.wrap(words, _WIDTH - len(indent), break_on_hyphens=False)]
    return [*comment, *(f"{indent}#{line}" for line in _example(option)), ""]


def _example(option: Option) -> list[str]:
    default = option.default
    if option.repeatable:
        return [f"{option.name}:", f"  - {option.metavar}"]
    if default is None or callable(default):
        return [f"{option.name}:"]
    if isinstance(default, bool):
        return [f"{option.name}: {'true' if default else 'false'}"]
    text = str(default)
    return [f"{option.name}: {json.dumps(text) if text[:1] in '{[&*!|>%@`' else text}"]
