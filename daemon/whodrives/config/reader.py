"""Reads a YAML text and collects every mistake with its line."""

from __future__ import annotations

import textwrap

import yaml

from whodrives.errors import WhodrivesError


class Document:
    """One YAML text under examination; it collects the mistakes found in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mistakes: list[str] = []

    def wrong(self, node: yaml.Node | None, path: str, sentence: str) -> None:
        """Note a mistake in the field `path`, at the node's line."""
        line = f":{node.start_mark.line + 1}" if node else ""
        self.mistakes.append(f"{self.name}{line}: {path}{': ' if path else ''}{sentence}")

    def compose(self, text: str) -> yaml.Node | None:
        """The text's node tree; None if it is empty or, which is noted, not YAML.

        Besides its own errors PyYAML lets through what int() and chr() raise for absurd numbers.
        """
        try:
            return yaml.compose(text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            said = " ".join(str(error).replace(' in "<unicode string>",', " at").split())
            self.wrong(None, "", f"not YAML: {said}; mend the text there")
        except RecursionError:
            self.wrong(None, "", "not readable: nested too deeply; flatten it")
        return None

    def entries(self, node: yaml.Node | None, path: str) -> dict[str, yaml.Node] | None:
        """The mapping's entries, {} where there is nothing; None and a note if it is no mapping."""
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
    """The scalar's null, boolean, number or text; the node itself if it is anything else.

    Dates are text: no knob is one.
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
    """The value as an error message shows it, in few characters."""
    if isinstance(value, yaml.ScalarNode):
        value = value.value
    if isinstance(value, yaml.Node):
        return "a mapping" if isinstance(value, yaml.MappingNode) else "a list"
    return textwrap.shorten("null" if value is None else repr(value), 60, placeholder="…")


def join_path(path: str, key: str) -> str:
    """The path of a key below `path`, with a dot in between."""
    return f"{path}.{key}" if path else key
