"""What whoever submits must be allowed to do in the namespace. k8s/base has it as a Role; a job needs nothing at all."""

from __future__ import annotations

from typing import NamedTuple


class Permission(NamedTuple):
    group: str
    resource: str  # with its subresource, as in pods/log
    verbs: tuple[str, ...]


NEEDED = (
    Permission("batch", "jobs", ("create", "get", "list", "delete")),
    Permission("", "pods", ("list",)),
    Permission("", "pods/log", ("get",)),
    Permission("", "events", ("list",)),
)
# What checks before submitting look at; without it they say what they could not see.
WANTED = (
    Permission("", "resourcequotas", ("list",)),
    Permission("", "persistentvolumeclaims", ("get",)),
    Permission("", "serviceaccounts", ("get",)),
)
# Of the Secrets that jobs use alone. Whoever may create pods can read those anyway.
WANTED_OF_SECRETS = Permission("", "secrets", ("get",))
