"""Which variables are secrets, as far as their names tell."""

from __future__ import annotations

import pytest

from cefr_batch.schedulers.secrets import SECRETS, looks_secret


@pytest.mark.parametrize(
    "name",
    [*SECRETS, "MY_PASSWORD", "DB_PASSWD", "GPG_PASSPHRASE", "WANDB_API_KEY", "SSH_PRIVATE_KEY", "GITHUB_TOKEN", "apikey",
     "CLIENT_SECRET", "GOOGLE_CREDENTIALS"],
)  # fmt: skip
def test_a_name_that_tells_of_a_secret(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name",
    ["AWS_REGION", "TOKENIZERS_PARALLELISM", "MAX_NEW_TOKENS", "AWS_WEB_IDENTITY_TOKEN_FILE", "HF_TOKEN_PATH", "KEYBOARD",
     "AWS_SHARED_CREDENTIALS_FILE", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "OMP_NUM_THREADS", "CACHE_KEY", "PASSWORDLESS"],
)  # fmt: skip
def test_other_names(name: str) -> None:
    assert not looks_secret(name)
