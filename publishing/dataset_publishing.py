# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Built data sets on the Hub: shards, card, manifest and report in one commit."""

from importlib.metadata import version
from pathlib import Path

from huggingface_hub import HfApi

from albef_amc.publishing.checkpoint_publishing import check_repository_name, check_token, explaining_hub_errors
from albef_amc.publishing.dataset_building import list_files

REPOSITORY_TYPE = "dataset"
# Shards of an earlier push that the new one may not have.
REPLACED_FILES = "data/*.parquet"


def open_repository(repo_id: str, *, private: bool = False) -> str:
    """Makes the repository of a data set if it does not exist, so that a refusal comes before the work.

    Args:
        repo_id (`str`): your-name/data.
        private (`bool`, defaults to `False`): whether a new repository is private.

    Returns:
        `str`: its address.

    Raises:
        ValueError: no name of a repository, no token, or the Hub refuses; also where `private` is asked for and the
            repository is public.
        ConnectionError: the Hub cannot be reached or has failed.
    """
    check_repository_name(repo_id, "your-name/data")
    check_token()
    with explaining_hub_errors(repo_id):
        api = _build_api()
        url = api.create_repo(repo_id, repo_type=REPOSITORY_TYPE, private=private or None, exist_ok=True)
        if private and not api.repo_info(repo_id, repo_type=REPOSITORY_TYPE).private:
            raise ValueError(f"`{repo_id}` exists and is public: nothing was built. Make it private on its page.")
    return str(url)


def upload_dataset(folder: str | Path, repo_id: str, *, message: str = "Upload data set") -> str:
    """Uploads a built data set in one commit; shards of an earlier push that it does not have are removed.

    Args:
        folder (`str` or `Path`): what `build_dataset` wrote.
        repo_id (`str`): repository that exists.
        message (`str`): of the commit.

    Returns:
        `str`: the commit.

    Raises:
        ValueError, ConnectionError: as [`open_repository`].
    """
    folder = Path(folder)
    with explaining_hub_errors(repo_id):
        commit = _build_api().upload_folder(
            repo_id=repo_id,
            repo_type=REPOSITORY_TYPE,
            folder_path=folder,
            allow_patterns=list_files(folder),
            delete_patterns=REPLACED_FILES,
            commit_message=message,
        )
    return commit.oid


def _build_api() -> HfApi:
    return HfApi(library_name="albef-amc", library_version=version("albef-amc"))


__all__ = ["open_repository", "upload_dataset"]
