# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Built data sets on the Hub: shards, card, manifest and report in one commit."""

from pathlib import Path

from albef_amc.publishing.dataset_building import list_files
from albef_amc.publishing.repositories import (
    build_api,
    check_repository_name,
    check_token,
    create_repository,
    explaining_hub_errors,
)

REPOSITORY_TYPE = "dataset"
# Shards of an earlier push that the new one may not have.
REPLACED_FILES = "data/*.parquet"


def open_repository(repo_id: str, *, private: bool = False) -> str:
    """Creates the repository of a data set if it does not exist, so that a refusal comes before the work.

    Args:
        repo_id (`str`): your-name/data.
        private (`bool`, defaults to `False`): whether a new repository is private.

    Returns:
        `str`: its address.

    Raises:
        ValueError: not the name of a repository, no token, or a refusal of the Hub; also where `private` is asked for
            and the repository is public.
        ConnectionError: the Hub cannot be reached or has failed.
    """
    check_repository_name(repo_id, "your-name/data")
    check_token()
    with explaining_hub_errors(repo_id):
        return str(create_repository(build_api(), repo_id, REPOSITORY_TYPE, private or None))


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
        commit = build_api().upload_folder(
            repo_id=repo_id,
            repo_type=REPOSITORY_TYPE,
            folder_path=folder,
            allow_patterns=list_files(folder),
            delete_patterns=REPLACED_FILES,
            commit_message=message,
        )
    return commit.oid
