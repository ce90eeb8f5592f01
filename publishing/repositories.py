# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Repositories of the Hub to write to: their names, the token, and errors in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from huggingface_hub import HfApi, RepoUrl, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from albef_amc.checkpoint_files_albef import SERVER_ERRORS

UNAUTHORIZED = 401


def build_api(token: str | None = None) -> HfApi:
    """The client of the Hub, which states this package as its user."""
    return HfApi(token=token, library_name="albef-amc", library_version=version("albef-amc"))


def create_repository(api: HfApi, repo_id: str, kind: str, private: bool | None) -> RepoUrl:
    """Creates a repository if it does not exist.

    Args:
        api (`HfApi`): the client.
        repo_id (`str`): the repository.
        kind (`str`): `"model"` or `"dataset"`.
        private (`bool`, *optional*): whether a new repository is private; as the account has it by default.

    Returns:
        `RepoUrl`: its address, a `str`.

    Raises:
        ValueError: `private` is asked for and the repository is public.
    """
    url = api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True)
    if private and not api.repo_info(url.repo_id, repo_type=kind).private:
        raise ValueError(f"`{url.repo_id}` exists and is public: nothing was uploaded. Make it private on its page.")
    return url


def check_repository_name(repo_id: str, example: str) -> None:
    """Refuses a name that is not `user/name`; the Hub would add the name of the user to a bare one."""
    if repo_id.count("/") != 1:
        raise ValueError(f"a repository is named {example}, got {repo_id!r}.")
    validate_repo_id(repo_id)


def check_token(token: str | None = None) -> None:
    """Refuses to continue without a token.

    Raises:
        ValueError: none is given and none is stored.
    """
    if token is None and get_token() is None:
        raise ValueError("No Hugging Face token: run `hf auth login`, or set HF_TOKEN to a token that may write.")


@contextmanager
def explaining_hub_errors(repo_id: str | None) -> Iterator[None]:
    """Turns answers of the Hub into one line: a `ValueError` for a refusal, a `ConnectionError` for a failure."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason = error.server_message or f"status {status}"
        if status >= SERVER_ERRORS:
            raise ConnectionError(f"{constants.ENDPOINT} failed ({reason}). Push again later.") from error
        if status == UNAUTHORIZED:
            raise ValueError(f"{constants.ENDPOINT} does not accept the token ({reason}): log in again.") from error
        raise ValueError(
            f"{constants.ENDPOINT} refused `{repo_id}` ({reason}). Is the name yours, and may the token write to it?"
        ) from error
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise ConnectionError(f"cannot reach {constants.ENDPOINT} ({error}). Push again later.") from error
