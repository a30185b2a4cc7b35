#!/usr/bin/env python3
"""Write the pages of docs/reference/ from what they describe: settings, commands, stored documents.

python tools/reference.py            # a test fails where a page is not what this writes
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import click
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from cefr_batch import records  # noqa: E402 (the checkout's, whatever is installed)
from cefr_batch.cli.main import COMMANDS, cli  # noqa: E402
from cefr_batch.config.schema import RunSpec  # noqa: E402
from cefr_batch.records.document import Part, StoredRecord  # noqa: E402
from cefr_batch.report.compare import flat  # noqa: E402

WIDTH = 100  # of a help text
_WRITTEN = "<!-- Written by tools/reference.py: change what it describes, then run it. -->\n"


def pages() -> dict[str, str]:
    """Each page's text by its name in docs/reference/."""
    return {"settings.md": settings_page(), "commands.md": commands_page(), "documents.md": documents_page()}


# Settings.


def settings_page() -> str:
    """Every setting of a job: its default, what is valid, what it means."""
    base = (ROOT / "jobs" / "base.yaml").read_text(encoding="utf-8")
    meanings = dict(_comments(base))
    schema = RunSpec.model_json_schema()
    lines = [
        f"# Settings of a job\n\n{_WRITTEN}\n"
        "You want to know what can be set in a job's file (`jobs/b1.yaml`), by `--profile`, or by `--set KEY=VALUE`.\n\n"
        "The defaults are those of `jobs/base.yaml`. `cefr-batch config show` lists the files that are found where you\n"
        "work; with `--level B1`, it lists the value of each setting and the file that gives it. Settings of a cluster are\n"
        "explained in `slurm/default.yaml` and `k8s/default.yaml`.\n\n"
        "| setting | default | valid | meaning |\n| --- | --- | --- | --- |"
    ]
    for key, default in flat(yaml.safe_load(base)):
        cells = (f"`{key}`", f"`{_yaml(default)}`", _valid(schema, key), meanings.get(key, ""))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()


def _comments(text: str) -> Iterator[tuple[str, str]]:
    """What stands behind each setting; a comment of a line of its own continues it."""
    section, key, said = "", "", ""
    for line in text.splitlines():
        code, _, comment = line.partition(" #")
        name = code.partition(":")[0]
        if name.strip() and not line.startswith("#"):
            if key:
                yield key, said
            section = section if name.startswith(" ") else ""
            key, said = f"{section}{name.strip()}", comment.strip()
            if not code.partition(":")[2].strip():
                section = f"{name.strip()}."
        elif comment and key:
            said = f"{said} {comment.strip()}"
    yield key, said


def _valid(schema: dict[str, Any], key: str) -> str:
    field = schema
    for name in key.split("."):
        field = _resolved(schema, field)["properties"][name]
    return _described(schema, field)


def _resolved(schema: dict[str, Any], field: dict[str, Any]) -> dict[str, Any]:
    name = field.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = schema["$defs"][name] if name else field
    return found


def _described(schema: dict[str, Any], field: dict[str, Any], *, links: bool = False) -> str:
    """A field of a JSON schema in words; what has a description of its own is linked."""
    name = field.get("$ref", "").rpartition("/")[2]
    field = _resolved(schema, field)
    if name and field.get("type") == "object":
        anchor = re.sub(r"[^\w\- ]", "", name.lower())
        return f"[{name}](#{anchor})" if links and name != Part.__name__ else "a mapping"
    if "anyOf" in field:
        return ", or ".join(_described(schema, one, links=links) for one in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{_yaml(value)}`" for value in field["enum"])
    if "const" in field:
        return f"`{_yaml(field['const'])}`"
    kind = field.get("type", "any")
    if kind == "array":
        return f"a list of: {_described(schema, field['items'], links=links)}" if "items" in field else "a list"
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"a mapping to: {_described(schema, field['additionalProperties'], links=links)}"
    names = {
        "null": "`null`",
        "string": "a text",
        "integer": "a whole number",
        "number": "a number",
        "object": "a mapping",
    }
    names |= {"boolean": "`true`, `false`", "any": "any value"}
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    limits = [f"{word} {field[name]:,}" for name, word in words.items() if name in field and abs(field[name]) < 2**53]
    return " ".join([names[kind], *limits])


# Commands.


def commands_page() -> str:
    """The help of every command."""
    parts = [
        f"# Commands\n\n{_WRITTEN}\n"
        "What `cefr-batch COMMAND --help` says. Exit codes: 0 done, 1 failed, 2 used wrongly, 75 stopped and to be resumed, "
        "130 Ctrl-C."
    ]
    for name in COMMANDS:
        if command := cli.get_command(click.Context(cli), name):
            parts += _help(command, f"cefr-batch {name}")
    return "\n\n".join(parts) + "\n"


def _help(command: click.Command, name: str) -> Iterator[str]:
    help_names = cli.context_settings["help_option_names"]
    context = click.Context(
        command, info_name=name, max_content_width=WIDTH, terminal_width=WIDTH, help_option_names=help_names
    )
    yield f"## {name}\n\n```\n{command.get_help(context)}\n```"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            if found := command.get_command(context, child):
                yield from _help(found, f"{name} {child}")


# Stored documents.


def documents_page() -> str:
    """Every JSON document of the store: what it is for, its fields and their types."""
    modules = [import_module(f"{records.__name__}.{one.name}") for one in iter_modules(records.__path__)]
    parts = [
        f"# Stored documents\n\n{_WRITTEN}\n"
        "You want to read a store with a program of your own. Each JSON document has a number `schema`; ignore unknown "
        "keys, which later versions may add. Where the documents are: [The store: what a run writes](../store.md)."
    ]
    for module in modules:
        kinds = [
            one for one in vars(module).values()
            if isinstance(one, type) and issubclass(one, Part) and one.__module__ == module.__name__
        ]  # fmt: skip
        for kind in sorted(kinds, key=lambda one: not issubclass(one, StoredRecord)):
            if kind not in (Part, StoredRecord) and "[" not in kind.__name__:
                parts.append(_document(kind))
    return "\n\n".join(parts) + "\n"


def _document(kind: type[Part]) -> str:
    whole = f"A whole document, schema {kind.SCHEMA_VERSION}. " if issubclass(kind, StoredRecord) else ""
    text = re.sub(r"\bNone\b", "`null`", " ".join((kind.__doc__ or "").replace("``", "`").split()))  # as JSON has it
    schema = kind.model_json_schema(mode="serialization")
    required = schema.get("required", [])
    rows = [
        f"| `{name}` | {_described(schema, field, links=True)} | {'' if name in required else 'may be absent'} |"
        for name, field in schema["properties"].items()
    ]
    return "\n".join([f"## {kind.__name__}\n\n{whole}{text}\n\n| key | value | |\n| --- | --- | --- |", *rows])


def main() -> None:
    """Write the pages."""
    for name, text in pages().items():
        (ROOT / "docs" / "reference" / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
