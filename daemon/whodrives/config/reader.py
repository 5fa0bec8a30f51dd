"""Reads YAML and collects every mistake with its line."""

from __future__ import annotations

import textwrap

import yaml

from whodrives.errors import WhodrivesError


class Document:
    """A YAML text and the mistakes found in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mistakes: list[str] = []

    def wrong(self, node: yaml.Node | None, path: str, sentence: str) -> None:
        """Record a mistake in the field `path`, at the node's line."""
        line = f":{node.start_mark.line + 1}" if node else ""
        self.mistakes.append(f"{self.name}{line}: {path}{': ' if path else ''}{sentence}")

    def compose(self, text: str) -> yaml.Node | None:
        """The text's node tree; None if it is empty, or (recorded as a mistake) not YAML.

        PyYAML also raises the errors of int() and chr() for absurd numbers.
        """
        try:
            return yaml.compose(text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            said = " ".join(str(error).replace(' in "<unicode string>",', " at").split())
            self.wrong(None, "", f"not YAML: {said}; fix the text there")
        except RecursionError:
            self.wrong(None, "", "not readable: nested too deeply; flatten it")
        return None

    def entries(self, node: yaml.Node | None, path: str) -> dict[str, yaml.Node] | None:
        """The mapping's entries, {} for nothing; None and a mistake if it is not a mapping."""
        if node is None or plain_value(node) is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            self.wrong(
                node, path, f"{shown_value(node)} is not a mapping; write `key: value` lines"
            )
            return None
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else shown_value(key)
            if name in found:
                self.wrong(key, join_path(path, name), "is given twice; keep one of them")
            found[name] = value
        return found

    def raise_mistakes(self, error: type[WhodrivesError]) -> None:
        """Raise all mistakes in one report, if there are any."""
        if self.mistakes:
            count = len(self.mistakes)
            head = f"{self.name} has {count} mistake{'s' if count > 1 else ''}:"
            raise error("\n  ".join([head, *self.mistakes]))


def plain_value(node: yaml.Node) -> object:
    """A scalar's null, boolean, number or text; the node itself if it is anything else.

    Dates are text, because no setting is a date.
    """
    tag = node.tag.removeprefix("tag:yaml.org,2002:")
    if not isinstance(node, yaml.ScalarNode) or tag not in _VALUE_TAGS | _TEXT_TAGS:
        return node
    if tag in _TEXT_TAGS:
        return str(node.value)
    try:
        value: object = yaml.constructor.SafeConstructor().construct_object(node)
    except (ValueError, KeyError):
        return str(node.value)
    return value


_VALUE_TAGS = {"null", "bool", "int", "float"}


_TEXT_TAGS = {"str", "timestamp", "merge", "value"}


def shown_value(value: object) -> str:
    """The value in at most 60 characters, for an error message."""
    if isinstance(value, yaml.ScalarNode):
        value = value.value
    if isinstance(value, yaml.Node):
        return "a mapping" if isinstance(value, yaml.MappingNode) else "a list"
    return textwrap.shorten("null" if value is None else repr(value), 60, placeholder="…")


def join_path(path: str, key: str) -> str:
    """The path of a key below `path`, with a dot in between."""
    return f"{path}.{key}" if path else key
