"""What is printed never commands the terminal, whatever was stored."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.stored_runs import add_complete, add_ended, days_ago

from cefr_batch.cli.printable import printable, printable_json
from cefr_batch.records import layout
from cefr_batch.store.local import LocalStore

TITLE, CLEAR, C1 = "\x1b]0;owned\x07", "\x1b[2J", "\x9b2J"
HOSTILE = f"{TITLE}{CLEAR}{C1}\r\u202e"
ANYTHING = st.text(st.characters(codec=None))  # surrogates too


def commands(text: str) -> set[str]:
    """The characters of a text that a terminal obeys or cannot write."""
    return {char for char in text if unicodedata.category(char) in ("Cc", "Cs") and char not in "\t\n"}


@given(ANYTHING)
def test_no_control_character_is_printed_and_nothing_else_is_changed(text: str) -> None:
    shown = printable(text)
    assert commands(shown) == set()
    assert printable(shown) == shown
    plain = "".join(char for char in text if char.isprintable())
    assert printable(plain) == plain


@given(st.dictionaries(ANYTHING, ANYTHING))
def test_json_keeps_its_values(value: dict[str, str]) -> None:
    shown = printable_json(json.dumps(value, ensure_ascii=False, indent=1))
    assert commands(shown) == set()
    assert json.loads(shown) == value


@pytest.mark.parametrize(
    "words", [("list",), ("status",), ("logs", "x-b1-peft-v1"), ("status", "--json"), ("list", "--json")]
)
def test_stored_texts_do_not_reach_the_terminal_as_commands(
    words: tuple[str, ...], cefr_batch: Callable[..., Any], store: LocalStore
) -> None:
    add_complete(store, "x-a1-peft-v1", submitted_at=days_ago(1))
    add_ended(store, "x-b1-peft-v1", "FAILED", days_ago(1))
    for run, name, fields in (
        ("x-b1-peft-v1", layout.STATUS, ("message", "stage", "host")),
        ("x-b1-peft-v1", layout.SUBMISSION, ("submitted_by",)),
        ("x-a1-peft-v1", layout.SUBMISSION, ("handle",)),
    ):
        key = layout.run_key(run, name)
        store.put_json(key, store.get_json(key) | dict.fromkeys(fields, HOSTILE))
    store.put(layout.run_key("x-b1-peft-v1", "logs/attempt-1.log"), f"before {HOSTILE} after\n".encode())
    result = cefr_batch(*words)
    assert result.code == 0
    assert commands(result.out + result.err) == set()
    assert "\u202e" not in result.out
    assert "owned" in result.out  # the text itself is shown
