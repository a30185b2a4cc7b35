"""Texts of other libraries, which may quote the credentials that they were given."""

from __future__ import annotations

import os
import re

from cefr_batch.schedulers.secrets import looks_secret

_USER_IN_ADDRESS = re.compile(r"(?<=://)[^\s/@]+@")
_SHORTEST = 4  # characters of a value that is looked for


def without_secrets(text: str) -> str:
    """The text without the values of secret environment variables, and without the user and password of an address."""
    for name, value in os.environ.items():
        if looks_secret(name) and len(value) >= _SHORTEST:
            text = text.replace(value, f"<{name}>")
    return _USER_IN_ADDRESS.sub("", text)
