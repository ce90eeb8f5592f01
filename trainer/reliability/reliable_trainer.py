# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Fault tolerance: complete checkpoints, exact resume, streamed rows, steps that are not finite, requests to stop."""

import random
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate.utils import DistributedType, gather_object
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy
from transformers.utils import logging

from albef_amc.lora.adapter_files import is_adapter, load_adapter_weights
from albef_amc.lora.adapter_training import AdapterTraining
from albef_amc.messages_albef import list_first
from albef_amc.parallel_albef import sum_over_processes
from albef_amc.publishing.repositories import check_token, explaining_hub_errors
from albef_amc.publishing.run_publishing import RunPublisher
from albef_amc.saving_albef import replacing_files
from albef_amc.trainer.data.even_batches import divide_evenly
from albef_amc.trainer.data.streaming import STATE_KEY, StreamedRows
from albef_amc.trainer.processes import do_on_main_process
from albef_amc.trainer.reliability.finite_weights import check_finite_weights
from albef_amc.trainer.reliability.run_checkpoints import (
    MANIFEST_FILE,
    STATE_FILE,
    UNFINISHED,
    choose_checkpoint,
    clear_leftovers,
    compare_circumstances,
    describe_failure,
    ends_run,
    put_in_place,
    rotate_checkpoints,
    write_manifest,
)
from albef_amc.trainer.reliability.run_folder import check_free_space
from albef_amc.trainer.reliability.run_lock import lock_run_folder
from albef_amc.trainer.reliability.shared_failures import failing_together
from albef_amc.trainer.reliability.step_checks import BatchCheck, StepCheck
from albef_amc.trainer.reliability.stop_signals import (
    STOP_SIGNALS,
    StopOnSignal,
    TrainingInterrupted,
    TrainingTerminated,
    begin_worker,
)
from albef_amc.trainer.reliability.stream_batches import StreamBatches
from albef_amc.trainer.schedules import ALBEF_COSINE, build_scheduler, find_decay_parameters

logger = logging.get_logger(__name__)

CHECKED_TRANSFORMERS = ("5.23.0",)  # versions whose private methods the overrides below were checked against
IDS_SHOWN = 64


class ReliableTrainer(Trainer):
    """`transformers`' Trainer for runs that can be killed at any moment and resumed, on a CPU to the same bits.

    This class is the only place that overrides private methods of `Trainer`. What it adds:

    - **Complete checkpoints.** A checkpoint is written under a temporary name, gets a manifest (size and SHA-256 of
      every file) last, and is then renamed. With several processes the output folder is one that all of them see.
    - **Exact resume.** The order of rows, the epoch that rows are read in, the position in every stream and the
      generators of every process are restored. Neither evaluation nor the start of data loader workers draws from the
      generators that dropout draws from.
    - **Rows.** At the end of an epoch every row is read once ([`~trainer.data.even_batches.EvenBatches`]);
      [`~trainer.data.streaming.StreamedRows`] are read without Accelerate.
    - **Steps that are not finite are skipped.** Where the loss of any micro-batch on any process, or the norm of the
      gradient, is not finite, there is no optimizer step: parameters and optimizer stay as they were. The learning
      rate and the count of steps move on. `skipped_steps` in the log counts them; after `args.max_skipped_steps` in a
      row the run stops. With a fused optimizer (the default) the device itself skips the step, and the program reads
      this one step later, or before anything is logged, evaluated or saved. Other optimizers wait for the answer.
      DeepSpeed takes its step inside the backward pass and cannot skip it: there the run stops at the first loss that
      is not finite, before the step, and after a step whose gradient was not.
    - **A process that fails ends the others** with its message ([`failing_together`]).
    - **Ctrl-C and SIGTERM** save a checkpoint and stop the run, on all processes.
    - **LoRA** (`adapter`): checkpoints hold the adapter instead of the model.
    - **The Hub**: `push_to_hub` publishes as `albef-amc push` does ([`~publishing.run_publishing.RunPublisher`]).

    Args:
        model (`nn.Module`): what is trained.
        args ([`AmcConfig`]): the run's settings.
        adapter ([`~lora.adapter_training.AdapterTraining`], *optional*): the LoRA layers of `model`.
        weight_files ([`~trainer.model_training.WeightFiles`], *optional*): writes and reads weights; with `adapter` it
            is that. Without, they are stored as `Trainer` does it.
        kwargs: as for `Trainer`.
    """

    lr_scheduler: Any
    _stream: StreamBatches | None = None
    _steps_per_epoch: int
    _is_finished = False  # the resumed checkpoint is the end of a run

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        adapter: AdapterTraining | None = None,
        weight_files: Any = None,
        **kwargs: Any,
    ):
        super().__init__(model=model, args=args, **kwargs)
        self.adapter = adapter
        self.weight_files = weight_files
        self.publisher = RunPublisher(self)
        self.stop_signal = StopOnSignal()
        for callback in (self.stop_signal, SaveAfterEvaluation(self.stop_signal), self.publisher):
            self.add_callback(callback)
        self._skipped_in_a_row: list[tuple[int, list[str]]] = []
        self._check: StepCheck | None = None
        self._batch_checks: list[BatchCheck] = []
        self._tr_loss, self._globalstep_last_logged = torch.zeros(()), 0  # as at the start of a training

    def write_card(self, folder: Path) -> None:
        """Writes the card of saved weights into their folder: for a subclass to override, nothing here."""

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """As for `Trainer`, with checkpoints checked before they are read.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): `True`: the newest complete checkpoint of the output
                folder, with a warning about every newer one; without any, the run starts from the beginning. A path:
                that checkpoint; one without a manifest is read with a warning.
            trial, ignore_keys_for_eval: as for `Trainer`.

        Raises:
            ValueError: a checkpoint that differs from its manifest, or none in the folder that is complete; another
                run uses the folder; a run without a single batch.
            FileNotFoundError: no such checkpoint.
            OSError: the disk has no room for the checkpoints of the run.
            TrainingTerminated: SIGTERM came; a checkpoint of the step is saved.
            TrainingInterrupted: Ctrl-C came (a `KeyboardInterrupt`); a checkpoint of the step is saved.
            FloatingPointError: `max_skipped_steps` steps in a row were skipped, or a weight is NaN or infinite.
            ChildProcessError: another process failed; its message is given.
        """
        with failing_together(), lock_run_folder(self.args.output_dir):
            checkpoint = do_on_main_process(lambda: self._prepare_run_folder(resume_from_checkpoint))
            self._check, self._batch_checks = None, []
            self._skipped_in_a_row.clear()
            with self.stop_signal.listening():
                return super().train(checkpoint, trial, ignore_keys_for_eval)

    def _prepare_run_folder(self, wanted: str | bool | None) -> str | None:
        """Removes what a killed run left, chooses the checkpoint to resume from, and checks the space on the disk."""
        folder = Path(self.args.output_dir)
        clear_leftovers(folder)
        checkpoint = choose_checkpoint(folder, wanted)
        if checkpoint is not None and (checkpoint / MANIFEST_FILE).is_file():
            compare_circumstances(checkpoint, self.args.world_size)
        check_free_space(self.model, self.args, is_adapter=self.adapter is not None)
        return None if checkpoint is None else str(checkpoint)

    # Rows

    def get_train_dataloader(self) -> DataLoader:
        """The Trainer's, whose start (which draws a seed for workers) does not draw from the global generator; for
        streamed rows one whose batches are those of this process."""
        generator = torch.Generator().manual_seed(self.args.seed)
        if isinstance(self.train_dataset, StreamedRows):
            self._stream = StreamBatches(self.train_dataset, self.data_collator, self.args)
            return DataLoader(self._stream, batch_size=None, collate_fn=_return_as_it_is, generator=generator)
        self._stream = None
        loader = super().get_train_dataloader()
        inner = getattr(loader, "base_dataloader", loader)
        inner.generator = generator
        inner.worker_init_fn = partial(begin_worker, then=inner.worker_init_fn)
        return divide_evenly(loader)

    def num_examples(self, dataloader: DataLoader) -> int:
        """Images of an epoch."""
        return super().num_examples(dataloader) if self._stream is None else len(self._stream.rows)

    def _run_epoch(self, *, epoch: int, train_dataloader: Any, **arguments: Any) -> None:
        """One epoch. Its number reaches rows and sampler on any number of processes; a resumed stream continues."""
        checkpoint = arguments["resume_from_checkpoint"]
        is_resumed = checkpoint is not None and epoch == arguments["epochs_trained"]
        if self._stream is not None and is_resumed and not self.args.ignore_data_skip:
            self._stream.resume(Path(checkpoint), arguments["steps_trained_in_current_epoch"])
        if hasattr(self.train_dataset, "set_epoch"):
            self.train_dataset.set_epoch(epoch)
        batches = train_dataloader.batch_sampler
        while hasattr(batches, "batch_sampler"):
            batches = batches.batch_sampler
        if hasattr(getattr(batches, "sampler", None), "set_epoch"):
            batches.sampler.set_epoch(epoch)
        super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **arguments)

    def _prepare_input(self, data: Any) -> Any:
        """As for `Trainer`; copies of streamed rows from page-locked memory wait for nothing."""
        if isinstance(data, torch.Tensor):
            data = data.to(self.args.device, non_blocking=self.args.dataloader_pin_memory)
        return super()._prepare_input(data)

    def _track_num_input_tokens(self, inputs: Mapping[str, Any]) -> None:
        """Counts text tokens for `include_num_input_tokens_seen`, not pixels, where these are the main input."""
        main_input_name = getattr(self.model, "main_input_name", "input_ids")
        super()._track_num_input_tokens({**inputs, main_input_name: inputs["input_ids"]})

    # Optimizer and learning rate, as published

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Parameters with weight decay; see [`~trainer.schedules.find_decay_parameters`]."""
        return find_decay_parameters(model)

    def set_initial_training_values(self, args: TrainingArguments, dataloader: DataLoader) -> tuple:
        """Numbers of steps and epochs of the run; keeps the optimizer steps of an epoch for the scheduler."""
        values = super().set_initial_training_values(args, dataloader)
        self._steps_per_epoch = values[1]
        return values

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """The scheduler that `lr_scheduler` names, or `lr_scheduler_type` where it is None."""
        if self.lr_scheduler is None and self.args.lr_scheduler == ALBEF_COSINE:
            optimizer = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = build_scheduler(optimizer, self.args, self._steps_per_epoch, num_training_steps)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    # Steps that are not finite

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As for `Trainer`; keeps the position of the stream after the batch. A loss that is not finite enters the
        logged mean as the mean before it."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._stream is not None:
            self._stream.keep_position(inputs[STATE_KEY])
        mean = self._tr_loss / (1 + self.state.global_step - self._globalstep_last_logged)
        return torch.where(torch.isfinite(loss), loss, mean)

    def is_finite_loss(self, loss: torch.Tensor, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Whether the loss of a micro-batch is finite on every process, a scalar bool on its device.

        `compute_loss` of a subclass asks, and uses the batch for nothing else if the answer is no. Only DeepSpeed
        waits for the answer.

        Args:
            loss (`torch.Tensor`): the loss before the backward pass.
            inputs (mapping): the batch, with the `row_ids` that the collator gives.
        """
        is_finite_here = torch.isfinite(loss.detach()).all()
        is_finite = sum_over_processes((~is_finite_here).int()) == 0
        self._batch_checks.append(BatchCheck(list(inputs.get("row_ids", ())), is_finite_here, is_finite))
        if self._is_step_taken_in_backward:
            self._check_step(is_finite.new_ones(()))
            self._read_check()
        return is_finite

    @property
    def skipped_steps(self) -> int:
        """Steps of the run that were skipped, those before a resume included."""
        return max((entry["skipped_steps"] for entry in self.state.log_history if "skipped_steps" in entry), default=0)

    @property
    def _is_step_taken_in_backward(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.DEEPSPEED

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm of the gradient, equal on every process; makes sure that only a finite gradient is used."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        norm = grad_norm.full_tensor() if hasattr(grad_norm, "full_tensor") else grad_norm
        norm = torch.zeros((), device=self.args.device) if norm is None else torch.as_tensor(norm)
        self._read_check()
        check = self._check_step(torch.isfinite(norm.detach()).to(self.args.device))
        self._batch_checks = []
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        if self._is_step_taken_in_backward:
            self._read_check()
        elif optimizer.defaults.get("fused"):
            optimizer.found_inf = (~check.is_taken).float()  # such a step changes neither parameters nor optimizer
        elif check.find_reason() is not None:
            model.zero_grad()  # without gradients neither does this one
        return grad_norm

    def _check_step(self, is_gradient_finite: torch.Tensor) -> StepCheck:
        """Starts the check whether the step of the present micro-batches is taken."""
        self._check = StepCheck(self.state.global_step + 1, self._batch_checks, is_gradient_finite)
        return self._check

    def _read_check(self) -> None:
        """Reads the last check, once: counts a step that was skipped, and stops after too many in a row."""
        check, self._check = self._check, None
        if check is None:
            return
        found = check.find_reason()
        if found is None:
            self._skipped_in_a_row.clear()
            return
        reason, row_ids = found
        self._skipped_in_a_row.append((check.step, row_ids))
        if row_ids:
            logger.warning(f"step {check.step} is skipped: {reason}. Images: {', '.join(row_ids)}.")
        if self._is_step_taken_in_backward or len(self._skipped_in_a_row) >= self.args.max_skipped_steps:
            self._stop(self._skipped_in_a_row, reason)
        self.log({"skipped_steps": self.skipped_steps + 1})

    def _stop(self, steps: list[tuple[int, list[str]]], reason: str) -> NoReturn:
        """Ends the run with the images of all processes at the (step, ids of rows) that could not be taken."""
        ids: dict[int, list[str]] = {}
        for step, row_ids in gather_object(steps):
            ids.setdefault(step, []).extend(row_ids)
        batches = "; ".join(f"step {step}: {_name_rows(row_ids)}" for step, row_ids in ids.items())
        raise FloatingPointError(
            f"{reason}; {len(ids)} steps in a row could not be taken. Images of the batches: {batches}. Look at these "
            "rows, lower `learning_rate` or set `max_grad_norm`, and resume from the newest checkpoint."
        )

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.control.should_log or self.control.should_evaluate or self.control.should_save:
            self._read_check()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with preserved_random_state():
            return super()._evaluate(*args, **kwargs)

    # Checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes a checkpoint, gives it its name when every process has written its part, and deletes old ones."""
        self.store_flos()
        run_folder = Path(self.args.output_dir)
        final = run_folder / f"checkpoint-{self.state.global_step}"
        unfinished = run_folder / f"{UNFINISHED}{final.name}"
        if self.state.best_global_step:
            best = run_folder / f"checkpoint-{self.state.best_global_step}"
            if best == final or best.is_dir():
                self.state.best_model_checkpoint = str(best)
        parts: list[Callable[[], None]] = [partial(self._begin_save, unfinished)]
        parts.append(partial(self.save_model, str(unfinished), _internal_call=True))
        if not self.args.save_only_model:
            writers = (self._save_optimizer_and_scheduler, self._save_scaler, self._save_rng_state)
            parts += [partial(write, str(unfinished)) for write in writers]
            if self._stream is not None:
                parts.append(partial(self._stream.save, unfinished))
        parts.append(partial(self._finish_save, unfinished, final))
        try:
            for part in parts:
                _do_together(part, final)
        except BaseException:
            if self.args.should_save:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise
        if self.args.should_save:
            rotate_checkpoints(final, self.state.best_model_checkpoint, self.args.save_total_limit)

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
        is_last = self.control.should_training_stop and self.stop_signal.agreed is None
        write_manifest(unfinished, self.state.global_step, self.args.world_size, is_last)
        put_in_place(unfinished, final)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As for `Trainer`.

        Raises:
            FloatingPointError: a weight is NaN or infinite; nothing is written.
        """
        check_finite_weights(self.model, self.state.global_step, self.args.device)
        super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Weights or adapter, processor and settings; then the card."""
        folder = Path(output_dir or self.args.output_dir)
        if self.weight_files is None:
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            weights = self.model.state_dict() if state_dict is None else state_dict
            with replacing_files(folder) as unfinished:
                self.weight_files.save(unfinished, PREFIX_CHECKPOINT_DIR in folder.name, weights)
                self.processing_class.save_pretrained(unfinished)
                torch.save(self.args, unfinished / TRAINING_ARGS_NAME)
        if self.args.should_save:
            self.write_card(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.weight_files is not None:
            self.weight_files.load(resume_from_checkpoint)
        elif is_adapter(resume_from_checkpoint):
            raise ValueError(f"{resume_from_checkpoint} is of a LoRA run: resume it with its `peft_config`.")
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As for `Trainer`; DeepSpeed's own checkpoint lacks the frozen weights of a LoRA run, momentum among them."""
        if self.adapter is not None and self.is_deepspeed_enabled and checkpoint is not None:
            self.adapter.load(checkpoint)
        super()._load_optimizer_and_scheduler(checkpoint)

    def _load_best_model(self) -> None:
        if self.weight_files is None:
            super()._load_best_model()
        elif self.adapter is None:
            self.weight_files.load(self.state.best_model_checkpoint)
        else:
            load_adapter_weights(self.adapter.peft_model, self.state.best_model_checkpoint)

    # Start and end of a run

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
        start = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        self._is_finished = resume_from_checkpoint is not None and (
            self.state.global_step >= max_steps or ends_run(Path(resume_from_checkpoint), max_steps)
        )
        if not self._is_finished:
            return start
        logger.warning(f"{resume_from_checkpoint} is the end of its run: no step is left to take.")
        return num_train_epochs, 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As for `Trainer`; the summary of a training that took no step has no loss and no speed."""
        if self._is_finished and "train_loss" in logs:
            for name in [name for name in logs if name.startswith("train_")]:
                del logs[name]  # the Trainer returns this very dictionary
        super().log(logs, start_time)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """Ends a run; one that a signal ended keeps every checkpoint and does nothing more."""
        self._read_check()
        check_finite_weights(self.model, self.state.global_step, self.args.device)
        if not self.stop_signal.agree(self.args.device):
            if not self.state.global_step:
                raise ValueError("the run ended without a step: the training data gave no batch. Look at its rows.")
            return super()._finalize_training(*args, **kwargs)
        self.control: Any = self.callback_handler.on_train_end(self.args, self.state, self.control)
        self.is_in_train = False
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if not do_on_main_process(checkpoint.is_dir):  # the signal came after the last step
            self._save_checkpoint(self.model, trial=None)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        logger.warning(
            f"stopped by {STOP_SIGNALS[self.stop_signal.agreed]} after step {self.state.global_step} of "
            f"{self.state.max_steps}. Continue from {checkpoint} with `resume_from_checkpoint=True`."
        )
        is_interrupted = self.stop_signal.agreed == signal.SIGINT
        raise TrainingInterrupted(checkpoint) if is_interrupted else TrainingTerminated(checkpoint)

    # The Hub

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Makes the repository, before the first step; errors are those of [`explaining_hub_errors`]."""
        if self.is_world_process_zero():
            check_token(token or self.args.hub_token)
        with explaining_hub_errors(self.args.hub_model_id or Path(self.args.output_dir).absolute().name):
            super().init_hf_repo(token, private)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
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
        return self.publisher.publish_output(commit_message, blocking, token, revision, private)


class SaveAfterEvaluation(TrainerCallback):
    """Puts a save at the end of an epoch off until after the evaluation that belongs there.

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
    """Restores the global generators (Python, NumPy, torch) after the block."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _do_together(part: Callable[[], None], final: Path) -> None:
    """Does a part of a save; raises on every process if it fails on one, so that none waits for another."""
    failure, error = None, None
    try:
        part()
    except Exception as caught:
        error, failure = caught, describe_failure(caught, final)
    failures = [one for one in gather_object([failure]) if one is not None]
    if not failures:
        return
    number, message = failures[0]
    if number is not None:
        raise OSError(number, message, str(final)) from error
    raise error or RuntimeError(message)


def _name_rows(row_ids: list[str]) -> str:
    return list_first(row_ids, IDS_SHOWN) or "the collator gives no `row_ids`"


def _return_as_it_is(batch: Any) -> Any:
    return batch
