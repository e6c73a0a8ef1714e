"""Reading YAML as a configuration is written: plain values, each key once, and no more than people write.

What is wrong is told with its line, and without the line itself, which may hold a secret.
"""

from typing import NoReturn

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

VALUES_MAX = 100_000
"""Values of one text, those that aliases stand for counted each time: a few lines could mean billions."""
DEPTH_MAX = 100
"""How deep lists and mappings may stand in each other."""
_TEXT = "tag:yaml.org,2002:str"
_TAGS = (None, "!", _TEXT)
"""What may be said of a value beside it; as others fail in ways of their own on what they do not fit."""
_MERGE = "tag:yaml.org,2002:merge"


class YamlError(ValueError):
    """A text that is no YAML, or says what is not taken; its text says what, and where."""


def parse_yaml(text: str) -> object:
    """The value that `text` means. Raises YamlError."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise YamlError(f"{where}{error.problem}") from None
    except yaml.YAMLError as error:
        raise YamlError(str(error)) from None


class _Loader(yaml.SafeLoader):
    """Looks at each value as it is composed, before aliases and merge keys (`<<`) are followed."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._counts: dict[Node, int] = {}
        """Of what is composed, how many values it means."""

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        start, tag = event.start_mark, getattr(event, "tag", None)
        if tag not in _TAGS:
            _refuse(f"the tag {tag} is not taken; plain values are", start)
        if self._depth >= DEPTH_MAX:
            _refuse(f"this is nested too deeply; {DEPTH_MAX} levels are taken", start)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        assert isinstance(node, Node)
        if node not in self._counts:
            if node.end_mark is None:
                _refuse("an alias stands within what it means", start)
            if isinstance(node, MappingNode):
                self._check_keys(node)
            self._counts[node] = self._count(node)
        if self._counts[node] > VALUES_MAX:
            _refuse(f"these are more than {VALUES_MAX:,} values, with those of aliases", start)
        return node

    def construct_object(self, node: Node, deep: bool = False) -> object:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # a date that there is not, a number too long
            _refuse(str(error), node.start_mark)

    def _check_keys(self, node: MappingNode) -> None:
        seen = set()
        for at, (key_node, value) in enumerate(node.value):
            mark = key_node.start_mark
            if not isinstance(key_node, ScalarNode):
                _refuse("a key must be a text", mark)
            if key_node.tag != _MERGE:
                # As it is written (a route may be named `off`), in a node that is no value's too.
                node.value[at] = ScalarNode(_TEXT, key_node.value, mark), value
            key = key_node.value
            if key in seen:
                _refuse(f"the key {key!r} is there twice", mark)
            seen.add(key)

    def _count(self, node: Node) -> int:
        if not isinstance(node, CollectionNode):
            return 1
        if isinstance(node, MappingNode):
            return 1 + sum(self._counts[value] for _, value in node.value)
        return 1 + sum(self._counts[each] for each in node.value)


def _refuse(what: str, mark: yaml.Mark | None) -> NoReturn:
    raise yaml.constructor.ConstructorError(None, None, what, mark)
