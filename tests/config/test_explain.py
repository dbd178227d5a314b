"""Explanations, reference rows and JSON Schema: all made from the schema."""

import json
import re
from typing import Any

import msgspec
import tomli

from clusterd.config import (
    Config,
    Pool,
    explain,
    explain_defaults,
    from_flags,
    json_schema,
    load,
    policy,
    reference_rows,
    select,
    suggestions,
)
from clusterd.config.notation import toml_text
from clusterd.config.spec import keys
from clusterd.core.policy import OnGiveUp

TEXT = """
[listeners.http]
address = ":80"
[pools.web]
app = "shop:app"
workers = 3
env = { PASSWORD = "${PASSWORD}", PLAIN = "plain" }
"""
LOADED = load(TEXT, file="shop.toml", environ={"PASSWORD": "hunter2", "CLUSTERD_GRACE_PERIOD": "60"})


def test_every_key_is_documented_in_a_sentence_and_has_a_type() -> None:
    rows = reference_rows()
    assert len(rows) > 80
    assert len({row[0] for row in rows}) == len(rows)
    for key, kind, default, doc in rows:
        assert re.fullmatch(r"[a-z_]+(\.(NAME|[a-z_]+))*", key)
        assert kind
        assert default
        assert doc[0].isupper()
        assert doc.endswith(".")


def test_every_duration_and_size_tells_its_unit() -> None:
    for key, kind, _, doc in reference_rows():
        if kind == "duration":
            assert "seconds" in doc, key
        if kind == "size":
            assert "bytes" in doc, key


def test_defaults_are_those_that_a_file_may_hold() -> None:
    for path, entry in keys():
        assert entry.key is not None
        if not entry.key.shown:
            value = tomli.loads(f"value = {toml_text(entry.key.kind.dump(entry.default))}")["value"]
            assert value is not None, path


def test_an_explanation_tells_value_default_and_origin() -> None:
    rows = {row.key: row for row in explain(LOADED)}
    workers = rows["pools.web.workers"]
    assert (workers.value, workers.default, str(workers.origin)) == ("3", '"auto"', "shop.toml:6")
    assert workers.doc.startswith("How many;")
    assert str(rows["shutdown.grace_period"].origin) == "$CLUSTERD_GRACE_PERIOD"
    assert rows["shutdown.grace_period"].value == '"1m"'
    assert rows["clusterd.name"].value == '"shop"'
    assert rows["pools.web.umask"].value == "unchanged"


def test_a_value_from_a_variable_in_env_is_not_shown() -> None:
    rows = {row.key: row for row in explain(LOADED)}
    assert rows["pools.web.env.PASSWORD"].value == '"${PASSWORD}"'
    assert rows["pools.web.env.PLAIN"].value == '"plain"'
    assert "hunter2" not in repr(list(rows.values()))
    sets = from_flags(app="a:b", sets=["pools.web.env.PASSWORD='${P}'"], environ={"P": "hunter2"})
    assert "hunter2" not in repr(explain(sets))


def test_a_key_a_table_and_any_name_can_be_selected() -> None:
    rows = explain(LOADED)
    assert [row.key for row in select(rows, "pools.web.workers")] == ["pools.web.workers"]
    assert [row.key for row in select(rows, "pools.*.workers")] == ["pools.web.workers"]
    assert len(select(rows, "pools.web.restart")) == 6
    assert [row.key for row in select(explain_defaults(), "pools.web.workers")] == ["pools.NAME.workers"]
    assert select(rows, "pools.web.nothing") == []


def test_an_unknown_key_is_answered_with_known_ones() -> None:
    rows = explain(LOADED)
    assert suggestions(rows, "pools.web.wrokers")[0] == "pools.web.workers"
    assert suggestions(rows, "keep_alive") == ["pools.web.http.keep_alive"]
    assert suggestions(rows, "€" * 100_000) == []


def matches(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """Whether a value fits a JSON Schema, of the few words that are used here."""
    known = {"$schema", "$defs", "$ref", "title", "description", "default", "type", "properties", "enum", "const"}
    known |= {"additionalProperties", "propertyNames", "pattern", "minimum", "maximum", "anyOf", "items", "uniqueItems"}
    assert set(schema) <= known | {"minLength"}, schema
    types = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}
    if "$ref" in schema:
        return matches(root["$defs"][schema["$ref"].rpartition("/")[2]], value, root)
    if "anyOf" in schema and not any(matches(choice, value, root) for choice in schema["anyOf"]):
        return False
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(isinstance(value, types[name]) and (name == "boolean") == isinstance(value, bool) for name in names):
            return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "const" in schema and (value != schema["const"] or isinstance(value, bool)):
        return False
    if isinstance(value, str):
        return bool(re.search(schema.get("pattern", ""), value)) and len(value) >= schema.get("minLength", 0)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    if isinstance(value, list):
        return all(matches(schema.get("items", {}), item, root) for item in value)
    if isinstance(value, dict):
        other = schema.get("additionalProperties", {})
        return all(matches(schema.get("propertyNames", {}), key, root) for key in value) and all(
            (matches(schema["properties"][key], item, root) if key in schema.get("properties", {}) else other)
            if key in schema.get("properties", {}) or isinstance(other, bool)
            else matches(other, item, root)
            for key, item in value.items()
        )
    return True


def test_the_json_schema_takes_what_the_configuration_takes_and_no_unknown_key() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert matches(schema, tomli.loads(TEXT), schema)
    every: dict[str, Any] = {}
    for path, entry in keys():
        assert entry.key is not None
        if entry.key.shown:
            continue
        table = every
        for part in path[:-1]:
            table = table.setdefault(part, {})
        table[path[-1]] = entry.key.kind.dump(entry.default)
    for empty in ("app", "script", "tasks"):
        every["pools"]["NAME"].pop(empty)
    assert matches(schema, every, schema)
    for wrong in (
        "x = 1",
        "pools.web.workers = 0",
        "pools.web.wokers = 1",
        'pools.web.start_timeout = "5"',
        'listeners."a.b".backlog = 3',
        'log.level = "x"',
        'pools.web.app = "x"',
        "clusterd.name = 3",
    ):
        assert not matches(schema, tomli.loads(wrong), schema), wrong


def test_every_property_of_the_json_schema_has_a_description() -> None:
    def walk(schema: dict[str, Any]) -> None:
        for inner in schema.get("properties", {}).values():
            assert inner["description"]
            walk(inner)
            if isinstance(inner.get("additionalProperties"), dict):
                walk(inner["additionalProperties"])

    walk(json_schema())


def test_every_default_stands_in_one_place() -> None:
    assert LOADED.config.pools["web"].restart == Pool().restart
    assert msgspec.structs.replace(LOADED.config.shutdown, grace_period=0.0) == Config().shutdown


def test_the_core_is_given_its_numbers() -> None:
    result = policy(LOADED.config, cpus=8)
    (pool,) = result.pools
    assert (pool.name, pool.workers, pool.min_ready, pool.start_timeout) == ("web", 3, 1, 60.0)
    assert (pool.restart.on_give_up, pool.restart.give_up_after) == (OnGiveUp.PROBE, 5)
    assert (result.stop.lame_duck, result.stop.linger, result.stop.drain_timeout) == (0.0, 2.0, 25.0)
    automatic = from_flags(app="a:b", sets=["pools.web.min_ready=9"], environ={}).config
    assert [(pool.workers, pool.min_ready) for pool in policy(automatic, cpus=2).pools] == [(2, 2)]
    for affinity, workers in (("[0, 3]", 2), ('"auto"', 8)):
        bound = from_flags(app="a:b", sets=[f"pools.web.cpu_affinity={affinity}"], environ={}).config
        assert [pool.workers for pool in policy(bound, cpus=8).pools] == [workers]
