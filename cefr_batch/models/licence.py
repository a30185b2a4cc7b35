"""The licence of a pretrained model, by its own card: the head of the README.md in its folder."""

from __future__ import annotations

from pathlib import Path

import yaml

from cefr_batch.records.layout import CARD
from cefr_batch.records.stages import Licence


def licence_in(folder: Path) -> Licence | None:
    """What a model's folder says of its licence; None if nothing can be read there."""
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
        head = yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") else None
    except (OSError, ValueError, LookupError, yaml.YAMLError):
        return None
    if not isinstance(head, dict) or not isinstance(head.get("license"), str):
        return None
    named = {key: head.get(f"license_{key}") for key in ("name", "link")}
    return Licence(id=head["license"], **{key: text for key, text in named.items() if isinstance(text, str)})
