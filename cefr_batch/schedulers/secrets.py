"""Which environment variables are secrets, and how they reach a job that does not inherit this process's environment."""

from __future__ import annotations

import json
import os
import re
from itertools import pairwise

from cefr_batch.config.schema import NOTIFY_VARIABLE

# Words between the underscores of a variable's name that tell of a secret, and endings with which it is a place or a switch.
_SECRET_WORDS = {
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "SECRET",
    "SECRETS",
    "TOKEN",
    "CREDENTIAL",
    "CREDENTIALS",
    "APIKEY",
}
_SECRET_KEYS = {"API", "ACCESS", "SECRET", "PRIVATE", "AUTH", "ENCRYPTION"}  # before KEY
_NO_SECRET = ("_FILE", "_PATH", "_DIR", "_URL", "_URI", "_DISABLE_IMPLICIT_TOKEN")

TRACKER_SECRETS = ("WANDB_API_KEY", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
STORE_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
SECRETS = (
    *STORE_SECRETS,
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    *TRACKER_SECRETS,
)


def is_job_secret(name: str) -> bool:
    """Whether a job gets this variable as a secret: keys, tokens, and addresses of notices, which hold passwords."""
    return name in SECRETS or bool(re.fullmatch(NOTIFY_VARIABLE, name))


def secrets() -> dict[str, str]:
    """The secrets in this process's environment, by variable."""
    return {name: value for name, value in os.environ.items() if value and is_job_secret(name)}


def looks_secret(name: str) -> bool:
    """Whether a variable of this name holds a secret, as far as its name tells: ``MY_PASSWORD``, ``WANDB_API_KEY``."""
    if is_job_secret(name):
        return True
    words = name.upper().split("_")
    keys = {before for before, word in pairwise(words) if word == "KEY"}
    return bool(_SECRET_WORDS & set(words) or _SECRET_KEYS & keys) and not name.upper().endswith(_NO_SECRET)


def as_json(*, store: bool = True) -> bytes:
    """The secrets in this process's environment as JSON; empty if there are none. ``store``: with the keys of a store, which
    a folder does not need."""
    found = {name: value for name, value in secrets().items() if store or name not in STORE_SECRETS}
    return json.dumps(found).encode() if found else b""
