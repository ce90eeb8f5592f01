# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What `push_to_hub` uploads of a run: the model for grounding with its card, not the state of the training."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi
from transformers import Trainer
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import logging
from transformers.utils.hub import PushInProgress

from albef_amc.publishing.checkpoint_publishing import (
    Publication,
    check_token,
    explaining_hub_errors,
    prepare_publication,
    publish_checkpoint,
    upload_publication,
)

logger = logging.get_logger(__name__)


class HubPublisher(Trainer):
    """A Trainer that publishes as `albef-amc push` does: matching model, processor, code and card.

    With `push_to_hub=True` it does so in the background at every save, and once more, waiting, when `save_model` is
    called at the end. A push in the background that fails is a warning, and the run goes on. `hub_strategy` is that of
    `TrainingArguments`; `"checkpoint"` and `"all_checkpoints"` also upload the training state to a folder of its own.
    """

    push_in_progress: PushInProgress | None = None

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Makes the repository, before the first step; as [`explaining_hub_errors`] says."""
        if self.is_world_process_zero():
            check_token(token or self.args.hub_token)
            self._uploads = ThreadPoolExecutor(max_workers=1)  # one after the other, in the order of the steps
        with explaining_hub_errors(self.args.hub_model_id or Path(self.args.output_dir).absolute().name):
            super().init_hf_repo(token, private)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> Any:
        """Saves the present weights to `output_dir` and publishes them.

        Args:
            commit_message (`str`): of the commit.
            blocking (`bool`, defaults to `True`): wait until it is uploaded.
            token (`str`, *optional*), revision (`str`, *optional*), private (`bool`, *optional*): those of the
                arguments by default.

        Returns:
            On the main process what [`~publishing.checkpoint_publishing.upload_publication`] returns, or its `Future`.

        Raises:
            TypeError: fields of the card, which `card_details` of the Trainer takes.
            ValueError, ConnectionError: the Hub refuses or cannot be reached; the checkpoint stays in `output_dir`.
        """
        if kwargs:
            raise TypeError(f"unknown {', '.join(kwargs)}: cards are made from `card_details` of the Trainer.")
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        options: dict[str, Any] = dict(message=commit_message, private=private, token=token or self.args.hub_token)
        where: dict[str, Any] = dict(repo_id=self.hub_model_id, revision=revision or self.args.hub_revision)
        if not blocking:
            return self._publish_in_background(self.args.output_dir, where, options)
        try:
            return publish_checkpoint(self.args.output_dir, **where, **options)
        except (ValueError, ConnectionError) as error:
            remedy = f"The checkpoint is in {self.args.output_dir}: `albef-amc push` uploads it."
            raise type(error)(f"{error} {remedy}") from error

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Publishes a checkpoint of the run in the background."""
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        if self._forget_finished_pushes() and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        by_steps = self.args.save_strategy == SaveStrategy.STEPS
        when = f"step {self.state.global_step}" if by_steps else f"epoch {int(self.state.epoch)}"
        options = dict(message=f"Training in progress, {when}", token=self.args.hub_token)
        where: dict[str, Any] = dict(repo_id=self.hub_model_id, revision=self.args.hub_revision)
        try:
            jobs: list[Future] = [self._publish_in_background(checkpoint_folder, where, options)]
        except (ValueError, OSError) as error:
            logger.warning(f"The checkpoint of {when} was not pushed; the run goes on. {error}")
            return
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            name = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else Path(checkpoint_folder).name
            message = f"{options['message']}, state of the training"
            upload: Any = HfApi(token=self.args.hub_token).upload_folder
            jobs.append(
                self._uploads.submit(
                    upload, folder_path=checkpoint_folder, path_in_repo=name, commit_message=message, **where
                )
            )
        self.push_in_progress = PushInProgress([*self._forget_finished_pushes(), *jobs])

    def _publish_in_background(self, checkpoint: str, where: dict[str, Any], options: dict[str, Any]) -> Future:
        """Reads the checkpoint now, so that it may be deleted, and uploads it while the run goes on."""
        folder = TemporaryDirectory()
        try:
            publication = prepare_publication(checkpoint, folder.name, **where)
        except Exception:
            folder.cleanup()
            raise
        return self._uploads.submit(_upload_and_clean, folder, publication, options)

    def _finish_current_push(self) -> None:
        """Waits for what is being uploaded, and says what of it failed."""
        super()._finish_current_push()
        self._forget_finished_pushes()

    def _forget_finished_pushes(self) -> list[Future]:
        """Returns the uploads that go on, forgets the others, and says which of them failed."""
        jobs: list[Future] = [] if self.push_in_progress is None else self.push_in_progress.jobs
        for job in jobs:
            if job.done() and job.exception() is not None:
                logger.warning(f"A push during the run failed. {job.exception()}")
        unfinished = [job for job in jobs if not job.done()]
        self.push_in_progress = PushInProgress(unfinished) if unfinished else None
        return unfinished


def _upload_and_clean(folder: TemporaryDirectory, publication: Publication, options: dict[str, Any]) -> dict[str, Any]:
    with folder:
        return upload_publication(publication, **options)


__all__ = ["HubPublisher"]
