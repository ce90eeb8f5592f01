# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What people watch during a run: speed, heatmaps of the same phrases at every evaluation, the best model so far."""

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.utils import broadcast_object_list
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.utils import logging

from albef_amc import AlbefForPreTraining
from albef_amc.datasets_scripts.row_images import guard_images
from albef_amc.evaluation.grounding_evaluation import evaluate_baselines
from albef_amc.evaluation.grounding_metrics import POINTING_ACCURACY
from albef_amc.evaluation.phrase_coverage import measure_coverage
from albef_amc.image_processing_albef import UnusableImageError, load_image
from albef_amc.lora.adapter_files import save_adapter
from albef_amc.saving_albef import replace_folder, restore_folders, write_json
from albef_amc.text_processing_albef import find_text_problem
from albef_amc.trainer.data.mixtures import iterate_texts
from albef_amc.trainer.data.negatives import find_missing_negatives
from albef_amc.trainer.processes import sum_numbers
from albef_amc.trainer.reliability.finite_weights import check_finite_weights
from albef_amc.trainer.sharding import build_full_model, collect_weights
from albef_amc.visualization.drawing import compose_title, draw_sheet, overlay_heatmap

logger = logging.get_logger(__name__)

EVALUATED_ACCURACY = re.compile(r"eval_(?:(?P<benchmark>.+)_)?pointing_game_accuracy")
UNNAMED_BENCHMARK = "eval"  # as in metrics.json, where the evaluation data has no name
BEST_FOLDER, RECORD_FILE = "best-", "best.json"
MOST_PHRASES = 1_000_000  # whose words are looked up before a run, or an evaluation
EVALUATION_SETTINGS = ("num_heatmaps_drawn", "keep_best")


class ThroughputCallback(TrainerCallback):
    """Phrases and images per second of training, and the share of the time spent waiting for batches; evaluations and
    checkpoints do not count as training time.

    The trainer counts each micro-batch with [`count`] and the wait for the batches of a step with [`count_wait`], and
    calls [`compute`] whenever it logs.
    """

    def __init__(self):
        self.num_images = self.num_phrases = 0
        self.seconds_waited = 0.0
        self.has_first_batch = False
        self.began = self.paused_from = time.perf_counter()

    def count(self, inputs: Mapping[str, torch.Tensor]) -> None:
        """Counts one micro-batch of this process."""
        self.num_images += len(inputs["pixel_values"])
        self.num_phrases += len(inputs["input_ids"])

    def count_wait(self, seconds: float) -> None:
        """Counts the time that this process waited for the batches of a step; that of the first step, in which
        workers start, does not count."""
        self.seconds_waited += seconds if self.has_first_batch else 0.0
        self.has_first_batch = True

    def compute(self, device: torch.device) -> dict[str, float]:
        """`phrases_per_second` and `images_per_second` of all processes since the last call, which each must make, and
        `data_wait_share`, the share of the time in which this process waited for batches."""
        now = time.perf_counter()
        counts = sum_numbers([self.num_phrases, self.num_images], device)
        seconds = max(now - self.began, 1e-9)
        waited = self.seconds_waited
        self.num_images = self.num_phrases = 0
        self.seconds_waited = 0.0
        self.began = now
        return {
            "phrases_per_second": counts[0] / seconds,
            "images_per_second": counts[1] / seconds,
            "data_wait_share": min(1.0, waited / seconds),
        }

    def on_train_begin(self, args, state, control, **kwargs):
        """Starts the clock."""
        self.began = time.perf_counter()
        self.has_first_batch = False

    def on_step_end(self, args, state, control, **kwargs):
        """An evaluation or a checkpoint may follow."""
        self.paused_from = time.perf_counter()

    def on_evaluate(self, args, state, control, **kwargs):
        """Subtracts the time that the evaluation took."""
        now = time.perf_counter()
        self.began += now - max(self.paused_from, self.began)
        self.paused_from = now

    def on_save(self, args, state, control, **kwargs):
        """Subtracts the time that the checkpoint took."""
        self.on_evaluate(args, state, control)


class HeatmapSheetCallback(TrainerCallback):
    """Draws the heatmaps of the same phrases at every evaluation, one picture per step.

    One phrase of each row: the first of the first row, the second of the second, and so on, so that a data set whose
    rows start alike shows different kinds. Random states and the training mode of the model stay as they were. Every
    process computes the heatmaps, which a sharded model needs; the main one draws.

    Args:
        rows (sequence of `dict`): data set rows.
        processor ([`AlbefProcessor`]): of the model.
        folder (`str` or `Path`): where `step-N.png` is written.
    """

    def __init__(self, rows: Sequence[dict], processor: Any, folder: str | Path):
        self.processor = processor
        self.folder = Path(folder)
        self.images: list[Any] = []
        self.phrases: list[dict[str, Any]] = []
        limit = processor.image_processor.max_image_pixels
        for row in rows:
            phrases = [phrase for phrase in row["phrases"] or () if find_text_problem(phrase.get("phrase")) is None]
            if not phrases:
                continue
            try:
                self.images.append(load_image(row["image"], limit, f"image {row['image_id']!r}"))
            except (UnusableImageError, FileNotFoundError) as error:
                logger.warning(f"A row whose heatmaps were to be drawn is skipped: {error}")
                continue
            self.phrases.append(phrases[len(self.phrases) % len(phrases)])
        self.last_step: int | None = None

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        """Draws once per step, also where several data sets are evaluated."""
        if self.last_step == state.global_step or not self.phrases:
            return
        self.last_step = state.global_step
        with torch.random.fork_rng(devices=[]):  # making a model of the parts draws numbers
            results = self._ground(build_full_model(model))
        if state.is_world_process_zero:
            headings = ["phrase, matching probability", "region", f"heatmap at step {state.global_step}"]
            path = self.folder / f"step-{state.global_step}.png"
            draw_sheet(self._draw_rows(results), headings, path, has_colour_bar=True)
            logger.info(f"Heatmaps: {path}")

    def _ground(self, model: Any) -> list[dict]:
        texts = [[phrase["phrase"]] for phrase in self.phrases]
        inputs = self.processor(images=self.images, text=texts, return_tensors="pt")
        outputs = model.ground(**{name: tensor.to(model.device) for name, tensor in inputs.items()})
        return [results[0] for results in self.processor.post_process_grounding(outputs)]

    def _draw_rows(self, results: Sequence[dict]) -> list[list[Any]]:
        rows = []
        for image, phrase, result in zip(self.images, self.phrases, results, strict=True):
            boxes, title = phrase.get("boxes"), compose_title(phrase["phrase"], float(result["score"]))
            overlay = overlay_heatmap(image, result["heatmap"], boxes=boxes, point=result["point"].tolist())
            rows.append([title, overlay_heatmap(image, boxes=boxes), overlay])
        return rows


class KeepBestCallback(TrainerCallback):
    """Keeps the matching model with the best pointing accuracy of each evaluation data set in a folder of its own.

    `<output_dir>/best-<name>` holds the model without momentum copies and queues, its processor and code, its card,
    `metrics.json`, and `best.json` with the accuracy and the step. It is replaced only by a better one, all at
    once. A resumed run reads the record from the folder; evaluations before training do not count.

    Args:
        trainer ([`AmcTrainer`]): the run.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.best: dict[str, float] | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        """Forgets what an earlier run in the folder reached, unless this run resumes it."""
        records = self._read_records(Path(args.output_dir)) if state.is_world_process_zero else {}
        self.best = broadcast_object_list([records])[0] if state.global_step > 0 else {}

    def _read_records(self, output_dir: Path) -> dict[str, float]:
        """Accuracies of the earlier folders; one that a killed run had moved aside is put back."""
        restore_folders(output_dir, f"{BEST_FOLDER}*")
        records = {}
        for file in output_dir.glob(f"{BEST_FOLDER}*/{RECORD_FILE}"):
            name = file.parent.name.removeprefix(BEST_FOLDER)
            records[name] = json.loads(file.read_text())["pointing_game_accuracy"]
        return records

    def on_evaluate(self, args, state, control, metrics=None, model=None, **kwargs):
        """Saves the present model for every data set that it is the best for."""
        if self.best is None:
            return
        for metric, accuracy in (metrics or {}).items():
            found = EVALUATED_ACCURACY.fullmatch(metric)
            name = (found["benchmark"] or UNNAMED_BENCHMARK) if found else None
            if name is None or accuracy <= self.best.get(name, -1.0):
                continue
            self.best[name] = accuracy
            with torch.random.fork_rng(devices=[]):  # making a model draws numbers, and a resumed run makes fewer
                check_finite_weights(model, state.global_step, args.device)
                save_weights = self._prepare_save(model)
                if state.is_world_process_zero:
                    record = {"pointing_game_accuracy": accuracy, "step": state.global_step}
                    self._save(Path(args.output_dir) / f"{BEST_FOLDER}{name}", save_weights, record)

    def _prepare_save(self, model: Any) -> Callable[[Path], None]:
        """Returns what writes the weights of a model into a folder. Every process must call it for a sharded model."""
        if self.trainer.adapter is not None:
            return partial(save_adapter, model, weights=collect_weights(model))
        if self.trainer.weight_files is not None:
            return partial(self.trainer.weight_files.save, with_state=False, weights=collect_weights(model))
        return partial(_save_matching_model, build_full_model(model))

    def _save(self, target: Path, save_weights: Callable[[Path], None], record: Mapping[str, Any]) -> None:
        unfinished = target.with_name(f".unfinished-{target.name}")
        shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
        try:
            save_weights(unfinished)
            self.trainer.processing_class.save_pretrained(unfinished)
            self.trainer.write_card(unfinished)
            write_json(unfinished / RECORD_FILE, record)
            replace_folder(unfinished, target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        logger.info(f"Best so far, {record['pointing_game_accuracy']:.4f} at step {record['step']}: {target}")


def _save_matching_model(model: Any, folder: Path) -> None:
    if isinstance(model, AlbefForPreTraining):
        model = model.export_matching_model()
    model.save_pretrained(folder)


class PatienceCallback(EarlyStoppingCallback):
    """Early stopping on one metric; evaluations of other data sets are ignored.

    Args:
        early_stopping_patience (`int`): evaluations in a row without a better `metric_for_best_model`.
    """

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Counts an evaluation that has the metric."""
        if f"eval_{args.metric_for_best_model.removeprefix('eval_')}" in metrics:
            super().on_evaluate(args, state, control, metrics, **kwargs)


class NegativesCallback(TrainerCallback):
    """Warns before the first step of training data without a negative pair of image and phrase.

    Args:
        rows: training rows as the run got them.
    """

    def __init__(self, rows: Any):
        self.rows = rows

    def on_train_begin(self, args, state, control, **kwargs):
        """Looks at the first rows on the first process."""
        if state.is_world_process_zero:
            problem = find_missing_negatives(self.rows, args.false_phrases_per_image > 0)
            if problem is not None:
                logger.warning(f"Training data: {problem}")


class CoverageCallback(TrainerCallback):
    """Reports before the first step how many phrases are cut off, and how well the vocabulary covers their words.

    Args:
        rows: training rows as the run got them.
        tokenizer: of the model.
        max_length (`int`, *optional*): tokens of a phrase at most in training.
        with_paraphrases (`bool`): whether paraphrases are trained on.
    """

    def __init__(self, rows: Any, tokenizer: Any, max_length: int | None, with_paraphrases: bool):
        self.rows = rows
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.with_paraphrases = with_paraphrases

    def on_train_begin(self, args, state, control, **kwargs):
        """Counts on the first process."""
        if not state.is_world_process_zero:
            return
        texts = islice(iterate_texts(self.rows, self.with_paraphrases), MOST_PHRASES)
        coverage = measure_coverage(texts, self.tokenizer, self.max_length)
        if not coverage.num_phrases:
            return
        logger.info(f"Training data: {coverage.describe()}.")
        for warning in coverage.list_warnings():
            logger.warning(f"Training data: {warning}")


class BaselineCallback(TrainerCallback):
    """Says beside every evaluation how often rules that read no words point into a region: the middle of the image and
    of the largest object. A run that ends below the middle of the image says so.

    Args:
        rows (`dict`): evaluation rows with their sizes by the prefix of their metrics, such as "eval".
    """

    def __init__(self, rows: Mapping[str, Any]):
        self.rows = rows
        self.scores: dict[str, dict[str, float]] = {}

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Compares an evaluation with the baselines of its data set, which are computed once."""
        if not state.is_world_process_zero:
            return
        for prefix, rows in self.rows.items():
            accuracy = (metrics or {}).get(f"{prefix}_{POINTING_ACCURACY}")
            if accuracy is None:
                continue
            if prefix not in self.scores:
                self.scores[prefix] = evaluate_baselines(rows)
            center, largest = (self.scores[prefix][name] for name in ("center_point", "largest_object"))
            message = (
                f"{prefix} at step {state.global_step}: the heatmaps point into the region for {accuracy:.1%} of "
                f"the phrases, the middle of the image for {center:.1%}, that of its largest object for {largest:.1%}."
            )
            if accuracy > center:
                logger.info(message)
            elif control.should_training_stop:
                logger.warning_once(
                    f"{message} The run ends no better than a point that reads no words: it has not learnt to ground. "
                    "Train longer, raise `learning_rate`, start from a checkpoint that knows the words of the "
                    "phrases, or check the boxes with `albef-amc inspect-dataset`."
                )
            else:
                logger.info(f"{message} This is no better than a point that reads no words.")


def _drop_images(rows: Any) -> Any:
    """Rows without images; None where not all state the size of their image, or they would have to be decoded."""
    if isinstance(rows, datasets.Dataset):
        rows = rows.remove_columns([name for name in rows.column_names if name == "image"])
        sizes = [rows[name] if name in rows.column_names else [None] for name in ("width", "height")]
    elif isinstance(rows, list):
        sizes = [[row.get(name) for row in rows] for name in ("width", "height")]
    else:
        return None
    return None if any(None in values for values in sizes) else rows


def add_callbacks(trainer: Any) -> None:
    """Adds what the settings of a run ask for to its trainer.

    Args:
        trainer ([`AmcTrainer`]): the run, with its arguments and evaluation data.

    Raises:
        ValueError: a setting that needs evaluation data, without any; a `metric_for_best_model` of none of several
            data sets.
    """
    args, rows = trainer.args, trainer.eval_dataset
    trainer.add_callback(trainer.throughput)
    asked = [name for name in EVALUATION_SETTINGS if getattr(args, name)]
    if asked and not rows:
        raise ValueError(f"`{asked[0]}` needs evaluations: pass an `eval_dataset`.")
    parts = rows if isinstance(rows, dict) else {}
    _check_metric(args, parts)
    if rows:
        named = {f"eval_{name}": part for name, part in parts.items()} or {"eval": rows}
        sized = {prefix: _drop_images(part) for prefix, part in named.items()}
        trainer.add_callback(BaselineCallback({prefix: part for prefix, part in sized.items() if part is not None}))
    if args.num_heatmaps_drawn:
        chosen = [
            part[index]
            for part in (guard_images(part, is_decoded=False) for part in (parts.values() if parts else [rows]))
            for index in range(min(args.num_heatmaps_drawn, len(part)))
        ]
        trainer.add_callback(
            HeatmapSheetCallback(chosen, trainer.processing_class, Path(args.output_dir) / "heatmaps")
        )
    if args.keep_best:
        trainer.add_callback(KeepBestCallback(trainer))
    if args.early_stopping_patience:
        trainer.add_callback(PatienceCallback(args.early_stopping_patience))


def _check_metric(args: Any, parts: Mapping[str, Any]) -> None:
    metric = args.metric_for_best_model
    if metric is None or not parts or args.eval_strategy == "no":
        return
    if not metric.removeprefix("eval_").startswith(tuple(f"{name}_" for name in parts)):
        choices = ", ".join(f"`{name}_pointing_game_accuracy`" for name in parts)
        raise ValueError(
            f"`metric_for_best_model` is {metric!r}, but the evaluation data sets give {choices}: name one."
        )
