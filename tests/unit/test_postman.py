"""The Postman collection is made from what the services say about themselves."""

from __future__ import annotations

import json

from tools import postman


def test_the_collection_is_current() -> None:
    """Written anew by: .venv/bin/python -m tools.postman."""
    assert postman.FILE.read_text(encoding="utf-8") == postman.text()


def test_every_operation_is_in_it() -> None:
    """No route of either service is missing."""
    operations = {
        f"{m} {p}" for document in postman.documents().values() for m, p, _ in postman.operations_of(document)
    }
    items = [item["name"].partition(": ")[0] for folder in postman.collection()["item"] for item in folder["item"]]
    assert set(items) == operations


def test_no_key_is_in_it() -> None:
    """Keys are empty variables."""
    variables = {each["key"]: each["value"] for each in json.loads(postman.text())["variable"]}
    assert {value for name, value in variables.items() if name.endswith("_key")} == {""}
