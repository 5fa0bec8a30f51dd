import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tools.contract import DOCS, document, files
from whodrives.mqtt.topics import TOPICS

with warnings.catch_warnings():
    # Two of its models have a field named `schema`, which pydantic remarks on.
    warnings.simplefilter("ignore", UserWarning)
    from asyncapi3.models import AsyncAPI3

Document = dict[str, Any]


@pytest.fixture(scope="module")
def published() -> Document:
    """docs/asyncapi.yaml as anyone's tool reads it."""
    found: Document = yaml.safe_load((DOCS / "asyncapi.yaml").read_text(encoding="utf-8"))
    return found


def test_the_published_files_are_what_the_code_says() -> None:
    """docs/asyncapi.yaml and docs/schemas are up to date, and no schema of an old topic is left."""
    fix = "python tools/contract.py"
    for path, text in files().items():
        assert path.exists(), fix
        assert path.read_text(encoding="utf-8") == text, fix
    left = {path for path in (DOCS / "schemas").iterdir() if path not in files()}
    assert left == set[Path](), fix


def test_it_is_an_asyncapi_document(published: Document) -> None:
    """The AsyncAPI 3.0 object model accepts it, bindings included, and it says 3.0."""
    AsyncAPI3.model_validate(published)
    assert published["asyncapi"] == "3.0.0"


def _bind(document: Document) -> Any:
    return document["operations"]["sendPreferencesApply"]["bindings"]["mqtt"]


MISTAKES: dict[str, Callable[[Document], object]] = {
    "no info": lambda d: d.pop("info"),
    "no title": lambda d: d["info"].pop("title"),
    "an unknown key": lambda d: d.update(topics={}),
    "an action of version 2": lambda d: d["operations"]["sendStatus"].update(action="publish"),
    "no channel": lambda d: d["operations"]["sendStatus"].pop("channel"),
    "a QoS of 3": lambda d: _bind(d).update(qos=3),
    "a retain of words": lambda d: _bind(d).update(retain="maybe"),
    "an unknown binding": lambda d: _bind(d).update(expiry=3),
    "a key with a space": lambda d: d["channels"].update({"a b": {}}),
    "a server without a protocol": lambda d: d["servers"]["car"].pop("protocol"),
    "an unknown security": lambda d: d["servers"]["car"].update(security=[{"type": "none"}]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_validator_sees_mistakes(published: Document, mistake: str) -> None:
    """The model that accepts our document refuses it with any of these in it."""
    wrong = copy.deepcopy(published)
    MISTAKES[mistake](wrong)
    with pytest.raises(ValueError, match="validation error"):
        AsyncAPI3.model_validate(wrong)


def _references(node: Any) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if key == "$ref":
            yield value
        elif isinstance(value, dict | list):
            yield from _references(value)


def test_every_reference_leads_somewhere(published: Document) -> None:
    """Channels, messages and schemas that are referred to are there."""
    for reference in _references(published):
        node: Any = published
        for step in reference.removeprefix("#/").split("/"):
            assert step in node, reference
            node = node[step]


def test_every_topic_is_described(published: Document) -> None:
    """Address, direction, QoS, retain and expiry are the contract's, for each of its topics."""
    operations = published["operations"].values()
    assert len(operations) == len(published["channels"]) == len(TOPICS)
    for operation, topic in zip(operations, TOPICS.values(), strict=True):
        channel = published["channels"][operation["channel"]["$ref"].rpartition("/")[2]]
        levels = channel["address"].replace("{path}", "<VSS path>")
        assert levels == f"whodrives/{{vehicle}}/{topic.name}"
        assert operation["action"] == ("send" if topic.writer == "whodrives" else "receive")
        binding = operation["bindings"]["mqtt"]
        assert binding["qos"] == topic.qos
        assert binding.get("messageExpiryInterval") == topic.expiry_s
        retain = {"yes": True, "no": False, "never": False, "as you like": None}[topic.retain]
        assert binding.get("retain") is retain
        assert ("reply" in operation) == (topic.answer is not None)


def test_the_examples_satisfy_the_document_s_own_schemas(published: Document) -> None:
    """Schemas are read as AsyncAPI reads them, a superset of draft 07, with their references."""
    for message in published["components"]["messages"].values():
        whole = {**message["payload"], "components": published["components"]}
        jsonschema.Draft7Validator.check_schema(whole)
        for example in message["examples"]:
            jsonschema.validate(example["payload"], whole, jsonschema.Draft7Validator)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"schema": 2}, whole, jsonschema.Draft7Validator)


def test_writing_it_twice_gives_the_same() -> None:
    """The document depends on nothing but the code and the examples."""
    assert document() == document()
