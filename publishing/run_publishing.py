# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What `push_to_hub` uploads of a run: the model for grounding with its card, not the state of the training."""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import logging
from transformers.utils.hub import PushInProgress

from albef_amc.publishing.checkpoint_publishing import (
    Publication,
    prepare_publication,
    publish_checkpoint,
    upload_publication,
)
from albef_amc.publishing.repositories import build_api

logger = logging.get_logger(__name__)


class RunPublisher(TrainerCallback):
    """Publishes the checkpoints of a run as `albef-amc push` does: matching model, processor, code and card.

    With `push_to_hub=True` it does so in the background at every save; a push that fails is a warning, and the run
    continues. `hub_strategy` is that of `TrainingArguments`; `"checkpoint"` and `"all_checkpoints"` also upload the
    training state to a folder of its own. The Trainer waits for `push_in_progress` at the end of a training.

    Args:
        trainer (`Trainer`): the run.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self._uploads = ThreadPoolExecutor(max_workers=1)  # one after the other, in the order of the steps
        self._jobs: list[Future] = []

    def on_save(self, args, state, control, **kwargs):
        """Publishes the checkpoint that was just saved, unless an earlier one is still being uploaded."""
        if not args.push_to_hub or args.hub_strategy == HubStrategy.END or not state.is_world_process_zero:
            return
        self._jobs = [job for job in self._jobs if not job.done()]
        if self._jobs and not args.hub_always_push:
            return
        self.trainer.callback_handler.on_push_begin(args, state, control)
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        by_steps = args.save_strategy == SaveStrategy.STEPS
        when = f"step {state.global_step}" if by_steps else f"epoch {int(state.epoch)}"
        message = f"Training in progress, {when}"
        where: dict[str, Any] = dict(repo_id=self.trainer.hub_model_id, revision=args.hub_revision)
        try:
            folder, publication = _prepare(checkpoint, where)
        except (ValueError, OSError) as error:
            logger.warning(f"The checkpoint of {when} was not pushed; the run continues. {error}")
            return
        options = dict(message=message, token=args.hub_token)
        self._jobs.append(self._uploads.submit(_warn_of_failure, _upload_and_clean, folder, publication, options))
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            name = "last-checkpoint" if args.hub_strategy == HubStrategy.CHECKPOINT else checkpoint.name
            options = dict(commit_message=f"{message}, state of the training", path_in_repo=name, **where)
            upload: Any = build_api(args.hub_token).upload_folder
            self._jobs.append(self._uploads.submit(_warn_of_failure, upload, folder_path=checkpoint, **options))
        self.trainer.push_in_progress = PushInProgress(self._jobs)

    def publish_output(
        self, message: str | None, blocking: bool, token: str | None, revision: str | None, private: bool | None
    ) -> Any:
        """Publishes what the run saved to its output folder, after the uploads that are not finished.

        Args:
            message (`str`): of the commit.
            blocking (`bool`): wait until it is uploaded.
            token, revision (`str`, *optional*), private (`bool`, *optional*): those of the arguments by default.

        Returns:
            What [`upload_publication`] returns, or its `Future`.
        """
        args = self.trainer.args
        wait(self._jobs)
        options: dict[str, Any] = dict(message=message, private=private, token=token or args.hub_token)
        where: dict[str, Any] = dict(repo_id=self.trainer.hub_model_id, revision=revision or args.hub_revision)
        if not blocking:
            return self._uploads.submit(_upload_and_clean, *_prepare(args.output_dir, where), options)
        try:
            return publish_checkpoint(args.output_dir, **where, **options)
        except (ValueError, ConnectionError) as error:
            remedy = f"The checkpoint is in {args.output_dir}: `albef-amc push` uploads it."
            raise type(error)(f"{error} {remedy}") from error


def _prepare(checkpoint: str | Path, where: dict[str, Any]) -> tuple[TemporaryDirectory, Publication]:
    """A copy of what is published of a checkpoint, so that the checkpoint may be deleted while it is uploaded."""
    folder = TemporaryDirectory()
    try:
        return folder, prepare_publication(checkpoint, folder.name, **where)
    except BaseException:
        folder.cleanup()
        raise


def _upload_and_clean(folder: TemporaryDirectory, publication: Publication, options: dict[str, Any]) -> dict[str, Any]:
    with folder:
        return upload_publication(publication, **options)


def _warn_of_failure(upload: Any, *args: Any, **kwargs: Any) -> None:
    try:
        upload(*args, **kwargs)
    except Exception as error:
        logger.warning(f"A push during the run failed. {error}")
