"""What this program says where the libraries that run models are not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cefr_batch.errors import CefrBatchError


@contextmanager
def training_libraries() -> Iterator[None]:
    """For what imports torch, transformers or PEFT: a missing one becomes an error that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as exc:
        raise CefrBatchError(
            f"running a model needs {exc.name}, which is not installed; run: pip install 'cefr-batch[train]'"
        ) from exc
