"""Files as trees with places."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlflowctl.config.files import FileProblem, Mapping, Node, Scalar, Sequence, read


def _plain(node: Node) -> object:
    if isinstance(node, Mapping):
        return {member.key: _plain(member.value) for member in node.members}
    if isinstance(node, Sequence):
        return [_plain(item) for item in node.items]
    return node.text


def _places(node: Node) -> list[str]:
    if isinstance(node, Mapping):
        return [place for member in node.members for place in _places(member.value)]
    if isinstance(node, Sequence):
        return [place for item in node.items for place in _places(item)]
    return [f"{node.place.line}:{node.place.column}"]


def _read(tmp_path: Path, name: str, text: str) -> Mapping:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read(tmp_path / name, name)


def test_yaml_scalars_stay_as_typed(tmp_path: Path) -> None:
    tree = _read(tmp_path, "x.yaml", "a: no\nb: 1:30\nc: 0x10\nd: 2020-01-01\ne:\nf: ~\ng: '~'\nh: [x, 'y z']\n")
    assert _plain(tree) == {
        "a": "no", "b": "1:30", "c": "0x10", "d": "2020-01-01", "e": None, "f": None, "g": "~", "h": ["x", "y z"],
    }  # fmt: skip


def test_yaml_places(tmp_path: Path) -> None:
    tree = _read(tmp_path, "x.yaml", "# c\na: 1\nmigrate:\n  jobs:   4\n  map-artifacts:\n    - a=b\n    - c=d\n")
    assert _places(tree) == ["2:4", "4:11", "6:7", "7:7"]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "~\n"])
def test_empty_yaml(tmp_path: Path, text: str) -> None:
    assert _read(tmp_path, "x.yaml", text).members == ()


def test_a_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    assert _plain(_read(tmp_path, "x.yaml", "\ufeffa: 1\n")) == {"a": "1"}


def test_anchors(tmp_path: Path) -> None:
    assert _plain(_read(tmp_path, "x.yaml", "a: &x [1]\nb: *x\n")) == {"a": ["1"], "b": ["1"]}


@pytest.mark.parametrize(
    ("name", "text", "where", "words"),
    [
        ("x.yaml", "a: [1\n", "x.yaml:2:1", "not YAML"),
        ("x.yaml", "a: 1\n\tb: 2\n", "x.yaml:2:1", "not YAML"),
        ("x.yaml", "- a\n", "x.yaml:1:1", "keys and values"),
        ("x.yaml", "text\n", "x.yaml:1:1", "keys and values"),
        ("x.yaml", "? [a]\n: 1\n", "x.yaml:1:3", "plain word"),
        ("x.yaml", "a: &x [*x]\n", "x.yaml:1:4", "alias"),
        ("x.json", '{"a": 1 2}', "x.json:1:9", "not JSON"),
        ("x.json", "[1]", "x.json:1:1", "keys and values"),
        ("x.ini", "[migrate\n", "x.ini:1:1", "neither a section"),
        ("x.ini", "a = 1\nnonsense\n", "x.ini:2:1", "neither a section"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, text: str, where: str, words: str) -> None:
    with pytest.raises(FileProblem) as caught:
        _read(tmp_path, name, text)
    assert words in caught.value.text
    if "alias" not in words:
        assert caught.value.where == where


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="No such file"):
        read(tmp_path / "none.yaml", "none.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(FileProblem, match="UTF-8"):
        read(tmp_path / "bad.yaml", "bad.yaml")


def test_json_with_tabs_and_astral_characters(tmp_path: Path) -> None:
    text = '{\n\t"a":\t"\\ud83d\\ude00",\n\t"b":{"c":[1,true,null],"d":"\\/x"}\n}'
    tree = _read(tmp_path, "x.json", text)
    assert _plain(tree) == {"a": "😀", "b": {"c": ["1", "true", None], "d": "/x"}}
    assert json.loads(text)["a"] == "😀"
    first = tree.members[0].value
    assert isinstance(first, Scalar)
    assert str(first.place) == "x.json:2:7"


def test_ini(tmp_path: Path) -> None:
    text = "; c\noutput = json\n[mlflowctl]\nquiet: yes\n\n[migrate]\njobs=4\nfrom = sqlite:///a b.db\nmap-artifacts =\n  a=b\n  c=d\nto =\n"
    tree = _read(tmp_path, "x.ini", text)
    assert _plain(tree) == {
        "output": "json",
        "quiet": "yes",
        "migrate": {"jobs": "4", "from": "sqlite:///a b.db", "map-artifacts": ["a=b", "c=d"], "to": None},
    }
    assert _places(tree) == ["2:10", "4:8", "7:6", "8:8", "10:3", "11:3", "12:5"]
