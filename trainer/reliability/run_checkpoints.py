# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of a run that survive a kill at any moment, and a resume that computes what was lost bit by bit."""

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from albef_amc.saving_albef import is_safetensors_error
from albef_amc.trainer.parallel import do_on_main_process
from albef_amc.trainer.reliability.manifests import (
    MANIFEST_FILE,
    STATE_FILE,
    UNFINISHED,
    clear_leftovers,
    describe_circumstances,
    ends_run,
    find_damage,
    find_newest_whole,
    get_step,
    list_checkpoints,
    put_in_place,
    read_manifest,
    remove_checkpoint,
    write_manifest,
)
from albef_amc.trainer.reliability.run_folder import check_free_space
from albef_amc.trainer.reliability.run_lock import lock_run_folder
from albef_amc.trainer.reliability.stop_signals import StopOnSignal, begin_worker

logger = logging.get_logger(__name__)

FULL_DISK_BYTES = 2**20  # a file that could not be written and less than this left: the disk is full


class WholeCheckpoints(Trainer):
    """Trainer whose checkpoints are whole, and whose resumed runs end with the bits of an uninterrupted one.

    A checkpoint is written under a temporary name, gets a manifest (size and SHA-256 of every file) last, and is then
    renamed. The order of rows, the epoch that rows are read in and the generators of every process are restored, and
    neither evaluation nor the starting of data loader workers draws from the generators that dropout draws from.

    With several processes the output folder is one that all of them see.
    """

    stop_signal: StopOnSignal
    lora_momentum: Any = None  # of a run that saves an adapter
    _is_over = False  # what was resumed is the end of a run

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.add_callback(SaveAfterEvaluation(self.stop_signal))

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """As for `Trainer`, with checkpoints checked before they are read.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): `True`: the newest checkpoint of the output folder
                whose manifest holds, with a warning about every newer one; without any, the run begins anew. A path:
                that checkpoint; one without a manifest is read with a warning.
            trial, ignore_keys_for_eval: as for `Trainer`.

        Raises:
            ValueError: a checkpoint that differs from its manifest, or no whole one among those of the folder; another
                run uses the folder.
            FileNotFoundError: no such checkpoint.
            OSError: the disk has no room for the checkpoints of the run.
        """
        with lock_run_folder(self.args.output_dir):
            chosen = do_on_main_process(lambda: self._prepare_run_folder(resume_from_checkpoint))
            return super().train(chosen, trial, ignore_keys_for_eval)

    def _prepare_run_folder(self, wanted: str | bool | None) -> str | None:
        """Clears left-overs, chooses the checkpoint to resume from, and looks at the space on the disk."""
        folder = Path(self.args.output_dir)
        clear_leftovers(folder)
        checkpoint = choose_checkpoint(folder, wanted)
        if checkpoint is not None and (checkpoint / MANIFEST_FILE).is_file():
            _compare_circumstances(checkpoint, self.args.world_size)
        check_free_space(self.model, self.args, is_adapter=self.lora_momentum is not None)
        return None if checkpoint is None else str(checkpoint)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes a checkpoint, gives it its name when every process has written its part, and rotates."""
        if self.hp_search_backend is None and trial is None:
            self.store_flos()
        run_folder = Path(self._get_output_dir(trial))
        final = run_folder / f"checkpoint-{self.state.global_step}"
        unfinished = run_folder / f"{UNFINISHED}{final.name}"
        if self.state.best_global_step:
            best = run_folder / f"checkpoint-{self.state.best_global_step}"
            if best == final or best.is_dir():
                self.state.best_model_checkpoint = str(best)
        try:
            for part in self._list_parts_of_save(unfinished, final):
                self._together(part, final)
        except BaseException:
            if self.args.should_save:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))
        if self.args.should_save:
            self._rotate(run_folder, final)

    def _list_parts_of_save(self, unfinished: Path, final: Path) -> list[Callable[[], None]]:
        """What is done to save, in order; every process ends one part before any begins the next."""
        parts = [lambda: self._begin_save(unfinished), lambda: self.save_model(str(unfinished), _internal_call=True)]
        if not self.args.save_only_model:
            parts += [
                lambda: self._save_optimizer_and_scheduler(str(unfinished)),
                lambda: self._save_scaler(str(unfinished)),
                lambda: self._save_rng_state(str(unfinished)),
            ]
        return [*parts, lambda: self._finish_save(unfinished, final)]

    def _begin_save(self, unfinished: Path) -> None:
        if self.args.should_save:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)

    def _finish_save(self, unfinished: Path, final: Path) -> None:
        """The state of the run, the manifest, and the name."""
        if not self.args.should_save:
            return
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                name, stored = type(callback).__name__, self.state.stateful_callbacks
                state = callback.state()
                if isinstance(stored.get(name), list):
                    stored[name].append(state)
                else:
                    stored[name] = state
        self.state.save_to_json(str(unfinished / STATE_FILE))
        write_manifest(unfinished, self.state.global_step, self.args.world_size, self._is_last_checkpoint())
        put_in_place(unfinished, final)

    def _is_last_checkpoint(self) -> bool:
        """Whether the run ends with the checkpoint that is being written, at `max_steps` or before it."""
        return self.control.should_training_stop and self.stop_signal.agreed is None

    def _together(self, part: Callable[[], None], final: Path) -> None:
        """Does a part of a save; raises on every process if it fails on one, so that none waits for another."""
        failure, error = None, None
        try:
            part()
        except Exception as caught:
            error, failure = caught, _describe_failure(caught, final)
        failures = [one for one in gather_object([failure]) if one is not None]
        if not failures:
            return
        number, message = failures[0]
        if number is not None:
            raise OSError(number, message, str(final)) from error
        raise error or RuntimeError(message)

    def _rotate(self, run_folder: Path, newest: Path) -> None:
        """Keeps `save_total_limit` checkpoints: the one just written, the best one, then the newest before it."""
        limit = self.args.save_total_limit
        if limit is None or limit <= 0:
            return
        best = self.state.best_model_checkpoint
        protected = {newest.name, *({Path(best).name} if best else ())}
        others = [path for path in list_checkpoints(run_folder) if path.name not in protected]
        # Those behind the present step are of a future that was given up: first to go.
        others.sort(key=lambda path: (get_step(path) < get_step(newest), get_step(path)))
        for checkpoint in others[: max(0, len(others) - max(0, limit - len(protected)))]:
            remove_checkpoint(checkpoint)

    def get_train_dataloader(self) -> DataLoader:
        """The Trainer's, whose start (which draws a seed for workers) leaves the global generator alone."""
        loader = super().get_train_dataloader()
        inner = getattr(loader, "base_dataloader", loader)
        inner.generator = torch.Generator().manual_seed(self.args.seed)
        inner.worker_init_fn = partial(begin_worker, then=inner.worker_init_fn)
        return loader

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: str | None,
        trial: Any,
    ) -> tuple[int, int]:
        """Where a run continues; after the last epoch, so that no step is taken, where the checkpoint is its last.

        The Trainer itself divides the step by the steps of an epoch, and takes a step before it asks whether there is
        one to take.
        """
        begin = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        self._is_over = resume_from_checkpoint is not None and (
            self.state.global_step >= max_steps or ends_run(Path(resume_from_checkpoint), max_steps)
        )
        if not self._is_over:
            return begin
        logger.warning(f"{resume_from_checkpoint} is the end of its run: no step is left to take.")
        return num_train_epochs, 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As for `Trainer`; the summary of a training that took no step has no loss and no speed."""
        if self._is_over and "train_loss" in logs:
            for name in [name for name in logs if name.startswith("train_")]:
                del logs[name]  # the Trainer returns this very dictionary
        super().log(logs, start_time)

    def _run_epoch(self, *, epoch: int, train_dataloader: Any, **arguments: Any) -> None:
        """One epoch; its number reaches the rows and the sampler on any number of processes, also after a resume."""
        if hasattr(self.train_dataset, "set_epoch"):
            self.train_dataset.set_epoch(epoch)
        layer = train_dataloader.batch_sampler
        while hasattr(layer, "batch_sampler"):
            layer = layer.batch_sampler
        if hasattr(getattr(layer, "sampler", None), "set_epoch"):
            layer.sampler.set_epoch(epoch)
        super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **arguments)

    def _evaluate(self, *arguments: Any, **options: Any) -> dict[str, float]:
        with preserved_random_state():
            return super()._evaluate(*arguments, **options)


class SaveAfterEvaluation(TrainerCallback):
    """Puts a save at the end of an epoch off until the evaluation that belongs there is over.

    A checkpoint then holds what the evaluation decides (best model, patience), and a run that continues from it has
    missed none. A run that a signal ends saves at once.

    Args:
        stop_signal ([`~trainer.reliability.stop_signals.StopOnSignal`]): knows whether a signal ends the run.
    """

    def __init__(self, stop_signal: StopOnSignal):
        self.stop_signal = stop_signal
        self.is_put_off = False

    def on_step_end(self, args, state, control, **kwargs):
        """Puts the save off where an evaluation follows."""
        ends_epoch = state.epoch % 1 == 0 or control.should_training_stop
        evaluates = args.eval_strategy == IntervalStrategy.EPOCH and args.eval_delay <= state.epoch
        if control.should_save and ends_epoch and evaluates and self.stop_signal.agreed is None:
            self.is_put_off, control.should_save = True, False

    def on_epoch_end(self, args, state, control, **kwargs):
        """Asks for the save that was put off; it follows the evaluation."""
        control.should_save |= self.is_put_off
        self.is_put_off = False


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Gives the global generators (Python, NumPy, torch) back as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def choose_checkpoint(run_folder: Path, wanted: str | bool | None) -> Path | None:
    """The checkpoint that `resume_from_checkpoint` means; see [`WholeCheckpoints.train`]."""
    if wanted is None or wanted is False:
        if list_checkpoints(run_folder):
            logger.warning(
                f"{run_folder} holds checkpoints of an earlier run, which this one will replace. To go on with that "
                "run, pass `resume_from_checkpoint=True`."
            )
        return None
    if wanted is True:
        newest = find_newest_whole(run_folder)
        if newest is None:
            logger.warning(f"{run_folder} holds no checkpoint: the run starts from the beginning.")
        return newest
    checkpoint = Path(wanted)
    if not checkpoint.is_dir():
        raise FileNotFoundError(errno.ENOENT, "`resume_from_checkpoint`: no such folder", str(checkpoint))
    if not (checkpoint / MANIFEST_FILE).is_file():
        logger.warning(f"{checkpoint} has no {MANIFEST_FILE}: whether it is whole is not known.")
        return checkpoint
    damage = find_damage(checkpoint)
    if damage is not None:
        raise ValueError(
            f"`resume_from_checkpoint`: {checkpoint} {damage}. Choose another checkpoint, or pass `True` for the "
            "newest that is whole."
        )
    return checkpoint


def _compare_circumstances(checkpoint: Path, world_size: int) -> None:
    stored, now = read_manifest(checkpoint)["circumstances"], describe_circumstances(world_size)
    different = [f"{name} {stored.get(name)} -> {value}" for name, value in now.items() if stored.get(name) != value]
    if different:
        logger.warning(
            f"{checkpoint} was written under other circumstances ({', '.join(different)}): the run goes on, but its "
            "weights will not be those of an uninterrupted run bit by bit."
        )


def _describe_failure(error: Exception, final: Path) -> tuple[int | None, str]:
    """Number of the operating system (`None`: no error of the disk) and words for an error during a save."""
    is_torch_writer = isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error)
    if not (isinstance(error, OSError) or is_torch_writer or is_safetensors_error(error)):
        return None, f"saving {final} failed on another process: {error}"
    number = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
    if "No space left" in str(error) or shutil.disk_usage(final.parent).free < FULL_DISK_BYTES:
        number = errno.ENOSPC
    words = os.strerror(number) if number == errno.ENOSPC else str(error)
    return number, f"cannot write the checkpoint; earlier ones are unchanged, and nothing is left of this one: {words}"


__all__ = ["WholeCheckpoints", "choose_checkpoint", "preserved_random_state"]
