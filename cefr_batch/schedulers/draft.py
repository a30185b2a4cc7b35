"""Site files for a start: a scheduler says what its cluster shows of each setting, and this writes it down."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import yaml

_WIDTH = 116  # of a comment, without its "# "


@dataclass(frozen=True)
class DraftSetting:
    """A setting of a site file. ``why``: where the value comes from. The value of one that is not ``known`` is an example,
    and ``why`` says why it is not known."""

    key: str
    value: Any
    why: str = ""
    known: bool = True


def unknown(why: str, **examples: Any) -> list[DraftSetting]:
    """Settings that are all not known for the same reason."""
    return [DraftSetting(key, value, why, known=False) for key, value in examples.items()]


def draft_text(heading: str, settings: Iterable[DraftSetting]) -> str:
    """The YAML text of a site file that extends ``default``. What is not known is a comment."""
    lines = [*_comment(heading), "extends: default"]
    reason = ""
    for one in settings:
        if one.why != reason or one.known:
            lines += ["", *_comment(one.why if one.known else f"Not known: {one.why}")]
        lines.append(f"{'' if one.known else '# '}{one.key}: {as_yaml(one.value)}")
        reason = "" if one.known else one.why
    return "\n".join([*lines, ""])


def _comment(text: str) -> Iterator[str]:
    for paragraph in text.splitlines():  # names and paths stay whole
        for line in wrap(paragraph, _WIDTH, break_long_words=False, break_on_hyphens=False):
            yield f"# {line}"


def as_yaml(value: Any) -> str:
    """A value on one line, as every YAML parser reads it: text in quotes, unless it is a plain word."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NO_TEXT:
        return value
    return (
        yaml.dump(value, Dumper=_Quoting, allow_unicode=True, default_flow_style=True, width=10**6, sort_keys=False)
        .removesuffix("\n")
        .removesuffix("\n...")
    )


_PLAIN = re.compile(r"(\.\./)*[A-Za-z][A-Za-z0-9_-]*([:/.][A-Za-z0-9_-]+)*")
_NO_TEXT = ("yes", "no", "on", "off", "true", "false", "null", "y", "n")


class _Quoting(yaml.SafeDumper):
    """Quotes every text but the keys of mappings."""

    def represent_text(self, text: str) -> yaml.Node:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"')


_Quoting.add_representer(str, _Quoting.represent_text)
