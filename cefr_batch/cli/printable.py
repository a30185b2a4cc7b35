"""Text that is safe to print: the store, logs and servers may hold anything. Light: every command loads it."""

from __future__ import annotations

_PICTURES = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"},
    **dict.fromkeys((*range(0x7F, 0xA0), *range(0xD800, 0xE000)), "\N{REPLACEMENT CHARACTER}"),
    # what changes the direction of the text around it, so that it reads as what it is not
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\N{REPLACEMENT CHARACTER}"),
}
_LONGEST_LINE = 4000


def printable(text: str) -> str:
    """The text as a terminal may see it. What is stored may hold anything, and control characters would command the
    terminal: each becomes its picture (``␛``) or ``�``; tabs and line ends stay."""
    return text.replace("\r\n", "\n").translate(_PICTURES)


def shortened(text: str) -> str:
    """The text with no line longer than anyone would read: what it quotes may be megabytes."""
    lines = text.split("\n")
    return "\n".join(line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} …" for line in lines)


def printable_json(document: str) -> str:
    """A JSON document as a terminal may see it: the same value, with these characters as JSON's own escapes."""
    return "".join(f"\\u{ord(char):04x}" if char != "\n" and ord(char) in _PICTURES else char for char in document)
