"""From flags, variables and files to settings, each value with its origin.

The order, highest first: flags, environment, ``.env``, ``./mlflowctl.yaml`` (or ``--config FILE``), the user's
``config.yaml``, MLflow's own variables, default. Nothing here raises: every problem is collected, so that all of them
can be told at once.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable
from collections.abc import Mapping as MappingType
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from mlflowctl.config import files
from mlflowctl.config.options import (
    CONFIG_VARIABLE,
    FOREIGN_VARIABLES,
    OPTIONS,
    PREFIX,
    SECTIONS,
    Kind,
    Option,
    is_reference,
)
from mlflowctl.core.errors import ConfigError, MlflowctlError, UsageError
from mlflowctl.core.redact import redact_uri

_Put = Callable[[Option, Any, "Layer", str], None]
_Where = Callable[[str], str]

PROJECT_NAMES = ("mlflowctl.yaml", "mlflowctl.yml", "mlflowctl.json", "mlflowctl.ini")
USER_NAMES = ("config.yaml", "config.yml", "config.json", "config.ini")


class Layer(IntEnum):
    """Where a value comes from; the lower number wins."""

    FLAG = 1
    ENVIRONMENT = 2
    DOTENV = 3
    PROJECT = 4
    USER = 5
    MLFLOW = 6
    DEFAULT = 7


@dataclass(frozen=True, slots=True)
class Value:
    """A value with its origin: ``mlflowctl.yaml:3:9``, ``env MLFLOWCTL_...``, ``.env:2``, ``flag --jobs``."""

    option: Option
    value: Any
    layer: Layer
    origin: str

    @property
    def shown(self) -> Any:
        """The value as it may be printed: secrets hidden, URIs redacted."""
        if self.value is None:
            return None
        if self.option.secret:
            return self.value if is_reference(self.value) else "***"
        if self.option.kind is Kind.PAIR:
            return [f"{redact_uri(old)}={redact_uri(new)}" for old, new in self.value]
        if isinstance(self.value, str):
            return redact_uri(self.value)
        return self.value


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a layer. A warning does not stop a command."""

    text: str
    where: str
    layer: Layer
    hint: str | None = None
    warning: bool = False
    deferred: bool = False
    """An error for ``config check``, a warning for everything else."""

    def document(self) -> dict[str, Any]:
        """The problem in JSON."""
        return {"message": self.text, "where": self.where, "next": self.hint, "warning": self.warning}

    def line(self) -> str:
        """The problem in one line, place first, as compilers do."""
        return f"{self.where}: {self.text}" + (f" {self.hint}" if self.hint else "")


@dataclass(slots=True)
class Settings:
    """What all layers together say."""

    values: dict[str, Value] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    """The environment over ``.env``: where ``env://NAME`` looks."""

    def __getitem__(self, option: Option) -> Any:
        return self.values[option.key].value

    def origin(self, option: Option) -> str:
        """Where the value of ``option`` comes from."""
        return self.values[option.key].origin

    def layer(self, option: Option) -> Layer:
        """The layer that gave the value of ``option``."""
        return self.values[option.key].layer

    def errors(self, *, strict: bool = False) -> list[Problem]:
        """What stops a command; ``strict`` is ``config check``'s view."""
        return [p for p in self.problems if not p.warning and (strict or not p.deferred)]

    def warnings(self) -> list[Problem]:
        """What a command mentions and then goes on."""
        return [p for p in self.problems if p.warning or p.deferred]

    def raise_problems(self, *, only_flags: bool = False) -> None:
        """Raise all errors as one, flags first.

        Args:
            only_flags: leave variables and files to the caller.

        Raises:
            UsageError: a flag's value is wrong.
            ConfigError: a variable or a file is wrong.
        """
        errors = [p for p in self.errors() if p.layer is Layer.FLAG or not only_flags]
        if not errors:
            return
        first = min(errors, key=lambda problem: problem.layer)
        kind: type[MlflowctlError] = UsageError if first.layer is Layer.FLAG else ConfigError
        others = [problem for problem in errors if problem is not first]
        hint = first.hint
        if others and first.layer is not Layer.FLAG:
            more = "1 more problem" if len(others) == 1 else f"{len(others)} more problems"
            hint = " ".join(filter(None, (hint, f"({more}: mlflowctl config check)")))
        raise kind(first.text, where=first.where, next_step=hint, details=tuple(p.line() for p in errors))


def resolve(
    flags: MappingType[str, Any],
    *,
    config: str | None = None,
    environ: MappingType[str, str] | None = None,
    folder: Path | None = None,
    options: tuple[Option, ...] = OPTIONS,
    mlflow_variables: bool = True,
) -> Settings:
    """Merge all layers.

    Args:
        flags: raw values by ``Option.key``, only of the flags that were given: texts, lists of texts, True, a count.
        config: the value of ``--config``.
        environ: the environment; default: this process's.
        folder: where ``./mlflowctl.yaml`` and ``.env`` are looked for; default: the current folder.
        options: the registry.
        mlflow_variables: whether MLflow's own variables count.
    """
    process = dict(os.environ if environ is None else environ)
    folder = Path.cwd() if folder is None else folder
    settings = Settings()
    given: dict[str, list[Value]] = {option.key: [] for option in options}

    def put(option: Option, value: Any, layer: Layer, origin: str) -> None:
        given[option.key].append(Value(option, value, layer, origin))

    _read_flags(flags, options, settings, put)
    _read_variables(process, options, Layer.ENVIRONMENT, lambda name: f"env {name}", settings, put)
    dotenv, lines = _read_dotenv(folder, settings)
    _read_variables(dotenv, options, Layer.DOTENV, lambda name: f".env:{lines.get(name, 1)}", settings, put)
    settings.environ = {**dotenv, **process}
    named = config or process.get(CONFIG_VARIABLE) or dotenv.get(CONFIG_VARIABLE)
    origin = Layer.FLAG if config else Layer.ENVIRONMENT
    for path, shown, layer in _files(named, origin, settings.environ, folder, settings):
        try:
            tree = files.read(path, shown)
        except files.FileProblem as bad:
            settings.problems.append(Problem(bad.text, bad.where, layer))
            continue
        settings.files.append(shown)
        _read_tree(tree, options, layer, settings, put)
    if mlflow_variables:
        for option in options:
            for name in option.variables:
                if settings.environ.get(name):
                    where = f"env {name}" if process.get(name) else f".env:{lines.get(name, 1)}"
                    put(option, settings.environ[name], Layer.MLFLOW, where)
                    break
    for option in options:
        put(option, option.default_value(), Layer.DEFAULT, "default")
        settings.values[option.key] = min(given[option.key], key=lambda value: value.layer)
    return settings


def _read_flags(flags: MappingType[str, Any], options: tuple[Option, ...], settings: Settings, put: _Put) -> None:
    for option in options:
        if option.key not in flags:
            continue
        raw, where = flags[option.key], option.flag
        if option.secret and isinstance(raw, str) and not is_reference(raw):
            settings.problems.append(
                Problem(
                    "No secret is taken as a flag's value: others on this machine could read it.",
                    where,
                    Layer.FLAG,
                    f"Put it into a variable and write {option.flag} env://NAME.",
                )
            )
            continue
        try:
            if option.repeatable:
                value: Any = tuple(option.parse(str(item)) for item in raw)
            elif option.kind in (Kind.SWITCH, Kind.COUNT) and not isinstance(raw, str):
                value = raw
            else:
                value = option.parse(raw)
        except ValueError as bad:
            settings.problems.append(Problem(str(bad), where, Layer.FLAG, _suggest_choice(option, raw)))
            continue
        put(option, value, Layer.FLAG, f"flag {where}")


def _read_variables(
    variables: MappingType[str, str],
    options: tuple[Option, ...],
    layer: Layer,
    where: _Where,
    settings: Settings,
    put: _Put,
) -> None:
    by_name = {option.variable: option for option in options}
    for name in sorted(variables):
        text = variables[name]
        option = by_name.get(name)
        if option is None:
            if name.startswith(PREFIX) and name != CONFIG_VARIABLE and name not in FOREIGN_VARIABLES:
                settings.problems.append(_unknown_variable(name, [*by_name, CONFIG_VARIABLE], layer, where(name)))
            continue
        if text == "":  # the usual way to unset a variable for one command
            continue
        try:
            put(option, option.parse_many(text), layer, where(name))
        except ValueError as bad:
            settings.problems.append(
                Problem(_hidden(option, str(bad)), where(name), layer, _suggest_choice(option, text))
            )


def _unknown_variable(name: str, known: list[str], layer: Layer, where: str) -> Problem:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
    in_section = any(name.startswith(f"{PREFIX}{section.upper()}_") for section, _ in SECTIONS)
    hint = f"Did you mean {near[0]}?" if near else "mlflowctl config schema lists all options."
    # A name that is near no option may belong to somebody else's script: no reason to refuse work.
    return Problem(f"{name} is no option of mlflowctl.", where, layer, hint, deferred=not near and not in_section)


def _read_dotenv(folder: Path, settings: Settings) -> tuple[dict[str, str], dict[str, int]]:
    path = folder / ".env"
    if not path.is_file():
        return {}, {}
    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    lines: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8") as stream:
            for binding in parse_stream(stream):
                if binding.error and any(word in binding.original.string for word in (PREFIX, "MLFLOW_")):
                    # Lines that other programs understand are none of our business.
                    settings.problems.append(
                        Problem("That line cannot be read.", f".env:{binding.original.line}", Layer.DOTENV)
                    )
                elif binding.key:
                    leading = len(binding.original.string) - len(binding.original.string.lstrip("\r\n"))
                    lines[binding.key] = binding.original.line + binding.original.string[:leading].count("\n")
        values = dotenv_values(path)
    except (OSError, UnicodeDecodeError) as bad:
        settings.problems.append(Problem(f"The file cannot be read: {bad}.", ".env", Layer.DOTENV))
        return {}, {}
    return {name: text for name, text in values.items() if text is not None}, lines


def user_folder(environ: MappingType[str, str]) -> Path:
    """The folder of the user's own configuration."""
    return Path(environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "mlflowctl"


def _files(
    named: str | None, origin: Layer, environ: MappingType[str, str], folder: Path, settings: Settings
) -> Iterable[tuple[Path, str, Layer]]:
    """The files to read, each with the way its places are printed."""
    if named:
        path = Path(named).expanduser()
        path = path if path.is_absolute() else folder / path
        if path.is_file():
            yield path, named, Layer.PROJECT
        else:
            settings.problems.append(
                Problem(
                    "That configuration file does not exist.", named, Layer.PROJECT if origin is Layer.FLAG else origin
                )
            )
    else:
        yield from _first(folder, PROJECT_NAMES, Layer.PROJECT, settings, short=True)
    yield from _first(user_folder(environ), USER_NAMES, Layer.USER, settings, short=False)


def _first(
    folder: Path, names: tuple[str, ...], layer: Layer, settings: Settings, *, short: bool
) -> Iterable[tuple[Path, str, Layer]]:
    found = [folder / name for name in names if (folder / name).is_file()]
    for ignored in found[1:]:
        text = f"This file is not read, because {found[0].name} stands beside it."
        settings.problems.append(Problem(text, ignored.name if short else str(ignored), layer, warning=True))
    if found:
        yield found[0], found[0].name if short else str(found[0]), layer


def _read_tree(tree: files.Mapping, options: tuple[Option, ...], layer: Layer, settings: Settings, put: _Put) -> None:
    sections = {name for name, _ in SECTIONS}
    top = {option.name: option for option in options if not option.section}
    for member in _members(tree, layer, settings):
        if member.key in sections:
            inside = {option.name: option for option in options if option.section == member.key}
            if isinstance(member.value, files.Mapping):
                for inner in _members(member.value, layer, settings):
                    option = inside.get(inner.key)
                    if option is None:
                        settings.problems.append(_unknown_key(inner, f"{member.key}.", inside, options, layer))
                    else:
                        _read_node(option, inner.value, layer, settings, put)
            elif not (isinstance(member.value, files.Scalar) and member.value.text is None):
                settings.problems.append(
                    Problem(
                        f"{member.key!r} is a section: keys and values are expected.", str(member.value.place), layer
                    )
                )
        elif member.key in top:
            _read_node(top[member.key], member.value, layer, settings, put)
        else:
            settings.problems.append(_unknown_key(member, "", [*top, *sections], options, layer))


def _members(tree: files.Mapping, layer: Layer, settings: Settings) -> Iterable[files.Member]:
    """Each key once; a second one is a problem, and the first one counts."""
    seen: dict[str, files.Member] = {}
    for member in tree.members:
        if member.key in seen:
            text = f"{member.key!r} stands twice, first in line {seen[member.key].place.line}."
            settings.problems.append(Problem(text, str(member.place), layer, "Remove one of the two."))
        else:
            seen[member.key] = member
    return seen.values()


def _unknown_key(
    member: files.Member, prefix: str, known: Iterable[str], options: tuple[Option, ...], layer: Layer
) -> Problem:
    near = difflib.get_close_matches(member.key.replace("_", "-").lower(), list(known), n=1, cutoff=0.6)
    if near:
        hint = f"Did you mean {near[0]!r}?"
    else:  # right word, wrong section
        elsewhere = [option.key for option in options if option.name == member.key]
        hint = f"Did you mean {elsewhere[0]!r}?" if elsewhere else "mlflowctl config schema lists all keys."
    return Problem(f"Unknown key {prefix + member.key!r}.", str(member.place), layer, hint)


def _read_node(option: Option, node: files.Node, layer: Layer, settings: Settings, put: _Put) -> None:
    if isinstance(node, files.Scalar) and node.text is None:
        return  # "key:" with nothing after it says nothing
    try:
        put(option, _node_value(option, node), layer, str(node.place))
    except _NodeError as bad:
        settings.problems.append(
            Problem(_hidden(option, bad.text), str(bad.place), layer, _suggest_choice(option, bad.raw))
        )
        return
    if option.secret and isinstance(node, files.Scalar) and not is_reference(node.text or ""):
        settings.problems.append(
            Problem(
                f"{option.key} holds the secret itself.",
                str(node.place),
                layer,
                "Put it into a variable or a file and write env://NAME or file://PATH.",
                warning=True,
            )
        )


class _NodeError(Exception):
    def __init__(self, text: str, place: files.Place, raw: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.place = place
        self.raw = raw


def _node_value(option: Option, node: files.Node) -> Any:
    if not option.repeatable:
        return _scalar(option, node)
    if isinstance(node, files.Mapping) and option.kind is Kind.PAIR:
        pairs = []
        for member in node.members:
            if not isinstance(member.value, files.Scalar) or member.value.text is None:
                raise _NodeError("A text is expected.", member.value.place)
            pairs.append(_scalar(option, files.Scalar(member.place, f"{member.key}={member.value.text}")))
        return tuple(pairs)
    items = node.items if isinstance(node, files.Sequence) else (node,)
    return tuple(_scalar(option, item) for item in items)


def _scalar(option: Option, node: files.Node) -> Any:
    if not isinstance(node, files.Scalar) or node.text is None:
        raise _NodeError("A single value is expected.", node.place)
    try:
        return option.parse(node.text)
    except ValueError as bad:
        raise _NodeError(str(bad), node.place, node.text) from None


def _suggest_choice(option: Option, raw: Any) -> str | None:
    near = difflib.get_close_matches(str(raw).lower(), option.choices, n=1, cutoff=0.6) if option.choices else []
    return f"Did you mean {near[0]!r}?" if near else None


def _hidden(option: Option, text: str) -> str:
    return "The value is not usable." if option.secret else redact_uri(text)
