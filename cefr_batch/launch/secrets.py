"""Which variables are secrets, and how they reach a job that does not inherit this process's environment."""

from __future__ import annotations

import json
import os
from pathlib import Path

from cefr_batch.errors import LaunchError

SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def secrets() -> dict[str, str]:
    """Those that this process has."""
    return {name: os.environ[name] for name in SECRETS if os.environ.get(name)}


def write_secrets(path: Path) -> bool:
    """Write them to a file that only this user reads, whole or not at all; False, and no file, if there are none."""
    found = secrets()
    if not found:
        return False
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside.unlink(missing_ok=True)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(found, file)
        aside.replace(path)
    except OSError as exc:
        raise LaunchError(f"cannot write the job's credentials to {path}: {exc.strerror or exc}") from exc
    return True
