"""Upload to the Hugging Face hub: an adapter, a merged model or a GGUF export, with its card."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cefr_batch.errors import ExportError, UsageError
from cefr_batch.records import layout

TOKEN = "HF_TOKEN"  # noqa: S105 (the name of a variable)


@dataclass(frozen=True)
class HubUpload:
    """What would go to a repository: the files of a folder, by their names there."""

    repository: str
    folder: Path
    private: bool

    @property
    def files(self) -> dict[str, int]:
        """Each file's name in the repository and its size in bytes. Hidden files are not among them."""
        found = sorted(file for file in self.folder.rglob("*") if file.is_file())
        names = {file.relative_to(self.folder).as_posix(): file.stat().st_size for file in found}
        return {name: size for name, size in names.items() if not layout.is_foreign(name)}

    def send(self) -> str:
        """Upload the files as one commit, and return the repository's address. Blocks.

        The repository is made if it is not there; one that is there keeps who may see it. Idempotent: what the hub has is
        not sent again. The token comes from the environment (``HF_TOKEN``) alone. Raises ``UsageError`` without one,
        ``ExportError`` where the hub refuses.
        """
        token = os.environ.get(TOKEN, "").strip()
        if not token:
            raise UsageError(
                f"an upload needs a token of the hub with write access in the environment: export {TOKEN}=… "
                "(https://huggingface.co/settings/tokens)"
            )
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        with _translated(self.repository, token):
            address = api.create_repo(self.repository, private=self.private, exist_ok=True)
            api.upload_folder(
                repo_id=self.repository,
                folder_path=self.folder,
                allow_patterns=list(self.files),
                commit_message="Upload from cefr-batch",
            )
        return str(address)


@contextmanager
def _translated(repository: str, token: str) -> Iterator[None]:
    """Whatever the hub's library raises becomes ``ExportError``, in words that never hold the token."""
    from huggingface_hub.errors import HFValidationError

    try:
        yield
    except HFValidationError as exc:
        raise UsageError(f"--repo: {exc}") from exc
    except Exception as exc:  # of this library and the two below it; which ones changes with their versions
        said = (str(exc).strip() or type(exc).__name__).replace(token, "***")
        status = getattr(getattr(exc, "response", None), "status_code", None)
        hint = (
            f"; does the token in {TOKEN} allow writing there?" if status in (401, 403) else "; repeat it to continue"
        )
        raise ExportError(f"the upload to {repository} failed: {' '.join(said.split())}{hint}") from None
