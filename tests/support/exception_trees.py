"""The exceptions that a library defines, for tests of the one place that translates them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator


def exceptions_of(package: str) -> Iterator[type[Exception]]:
    """The exception classes that any module of a package defines."""
    top = importlib.import_module(package)
    names = [package, *(found.name for found in pkgutil.walk_packages(top.__path__, f"{package}."))]
    for name in names:
        try:
            module = importlib.import_module(name)
        except Exception:  # without an extra
            continue
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, Exception) and not issubclass(kind, Warning) and kind.__module__ == module.__name__:
                yield kind


def an_instance_of(kind: type[Exception]) -> Exception:
    """As good as a real one for what reads its type and text, whatever arguments its class wants."""
    return kind.__new__(kind, "some text\non two lines")
