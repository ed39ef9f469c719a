"""Configuration files as trees whose every node knows its line and column.

YAML is read with ``yaml.compose``, not loaded: nodes keep their place, duplicate keys stay visible, and scalars stay
the text that the person typed, so ``no`` and ``1:30`` are no surprises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import yaml


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a file, both counted from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value as it was typed; ``text`` is None for an explicit nothing (``~``, ``null`` or no value at all)."""

    place: Place
    text: str | None


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    place: Place
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """One key of a mapping with its value."""

    key: str
    place: Place
    value: Node


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys in the file's order; a key may stand twice."""

    place: Place
    members: tuple[Member, ...] = field(default=())


Node = Scalar | Sequence | Mapping


class FileProblem(Exception):
    """A file that cannot be read at all: one sentence and a place."""

    def __init__(self, text: str, where: str) -> None:
        super().__init__(text)
        self.text = text
        self.where = where


def read(path: Path, shown: str) -> Mapping:
    """Read a file by its extension: ``.json``, ``.ini`` or ``.cfg``, anything else as YAML.

    Args:
        path: the file.
        shown: how places in it are printed.

    Raises:
        FileProblem: the file is missing, no text, or breaks its format's rules.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise FileProblem("The file is not UTF-8 text.", shown) from None
    except OSError as bad:
        raise FileProblem(f"The file cannot be read: {bad.strerror}.", shown) from None
    return _READERS.get(path.suffix.lower(), _read_yaml)(text, shown)


def _read_yaml(text: str, shown: str) -> Mapping:
    import yaml

    try:
        # libyaml would be faster, but refuses the surrogate pairs of JSON.
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as bad:
        mark = bad.problem_mark or bad.context_mark
        where = str(Place(shown, mark.line + 1, mark.column + 1)) if mark else shown
        problem = " ".join(part for part in (bad.problem, bad.context) if part)
        raise FileProblem(f"That is not YAML: {problem}.", where) from None
    except yaml.YAMLError as bad:
        raise FileProblem(f"That is not YAML: {' '.join(str(bad).split())}.", shown) from None
    if root is None:
        return Mapping(Place(shown, 1, 1))
    node = _from_yaml(root, shown, frozenset())
    if isinstance(node, Scalar) and node.text is None:
        return Mapping(node.place)
    if not isinstance(node, Mapping):
        raise FileProblem("The file must hold keys and values.", str(node.place))
    return node


def _from_yaml(node: yaml.Node, shown: str, above: frozenset[int]) -> Node:
    import yaml

    place = Place(shown, node.start_mark.line + 1, node.start_mark.column + 1)
    if id(node) in above:
        raise FileProblem("An alias stands inside of its own anchor.", str(place))
    above |= {id(node)}
    if isinstance(node, yaml.MappingNode):
        members = []
        for key, value in node.value:
            key_place = Place(shown, key.start_mark.line + 1, key.start_mark.column + 1)
            if not isinstance(key, yaml.ScalarNode):
                raise FileProblem("A key must be a plain word.", str(key_place))
            members.append(Member(key.value, key_place, _from_yaml(value, shown, above)))
        return Mapping(place, tuple(members))
    if isinstance(node, yaml.SequenceNode):
        return Sequence(place, tuple(_from_yaml(item, shown, above) for item in node.value))
    return Scalar(place, None if node.tag == "tag:yaml.org,2002:null" else _joined(node.value))


def _joined(text: str) -> str:
    """JSON writes a character beyond the BMP as two escapes; YAML's reader leaves them apart."""
    return re.sub(
        r"[\ud800-\udbff][\udc00-\udfff]",
        lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"),
        text,
    )


def _read_json(text: str, shown: str) -> Mapping:
    try:
        json.loads(text)
    except json.JSONDecodeError as bad:
        where = str(Place(shown, bad.lineno, bad.colno))
        raise FileProblem(f"That is not JSON: {bad.msg}.", where) from None
    # JSON is YAML, except that YAML refuses tabs between tokens; inside of a JSON text there can be none.
    return _read_yaml(text.replace("\t", " "), shown)


_INI_SECTION = re.compile(r"\[\s*([^\]]*?)\s*\]\s*(?:[#;].*)?")
_INI_KEY = re.compile(r"(?P<indent>\s*)(?P<key>[^=:\s][^=:]*?)\s*(?P<sep>[=:])\s*(?P<value>.*)")


def _read_ini(text: str, shown: str) -> Mapping:
    """Keys before any section, and those in ``[mlflowctl]``, are global. Indented lines go on with a list."""
    top: list[Member] = []
    sections: list[tuple[str, Place, list[Member]]] = []
    current = top
    last: tuple[str, Place, list[Scalar]] | None = None

    def finish() -> None:
        if last is not None:
            key, place, items = last
            value = items[0] if len(items) == 1 else Sequence(items[0].place, tuple(i for i in items if i.text))
            current.append(Member(key, place, value))

    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped[0] in "#;":
            continue
        column = len(line) - len(line.lstrip()) + 1
        if line[0].isspace() and last is not None:
            last[2].append(Scalar(Place(shown, number, column), stripped))
            continue
        finish()
        last = None
        if stripped.startswith("["):
            match = _INI_SECTION.fullmatch(stripped)
            if match is None:
                raise FileProblem(
                    "That is neither a section nor a key with a value.", str(Place(shown, number, column))
                )
            current = []
            if match[1] in ("mlflowctl", "global"):
                current = top
            else:
                sections.append((match[1], Place(shown, number, column), current))
            continue
        match = _INI_KEY.fullmatch(line)
        if match is None:
            raise FileProblem("That is neither a section nor a key with a value.", str(Place(shown, number, column)))
        value = match["value"].strip()
        place = Place(shown, number, match.start("value") + 1)
        last = (match["key"], Place(shown, number, column), [Scalar(place, value or None)])
    finish()
    members = [*top, *(Member(name, place, Mapping(place, tuple(keys))) for name, place, keys in sections)]
    return Mapping(Place(shown, 1, 1), tuple(members))


_READERS: dict[str, Callable[[str, str], Mapping]] = {".json": _read_json, ".ini": _read_ini, ".cfg": _read_ini}
