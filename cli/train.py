# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc train`: a training run from a recipe."""

import dataclasses
import math
import sys
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from albef_amc.cli.options import OUTPUT_FOLDER, JsonOption, SettingsOption
from albef_amc.cli.output_paths import check_folder
from albef_amc.cli.reporting import print_result, report, to_plain
from albef_amc.datasets_scripts import load_grounding_dataset
from albef_amc.grounders import Grounder
from albef_amc.lora.adapters import build_lora_config
from albef_amc.trainer.amc_config import AmcConfig
from albef_amc.trainer.amc_trainer import AmcTrainer
from albef_amc.trainer.callbacks import CoverageCallback, NegativesCallback
from albef_amc.trainer.data.mixtures import (
    check_evaluation_rows,
    check_has_rows,
    describe_size,
    list_parts,
    load_training_data,
)
from albef_amc.trainer.machine_checks import (
    check_evaluation_settings,
    check_machine,
    check_optimizer,
    check_regions,
    warn_of_other_batch,
)
from albef_amc.trainer.processes import do_on_main_process
from albef_amc.trainer.reliability.run_checkpoints import list_checkpoints
from albef_amc.trainer.reliability.run_folder import check_run_folder, read_end, store_end, store_recipe
from albef_amc.trainer.reliability.run_lock import lock_run_folder
from albef_amc.trainer.reliability.shared_failures import failing_together
from albef_amc.trainer.reliability.stop_signals import TrainingInterrupted, TrainingTerminated
from albef_amc.trainer.run_facts import describe_recipe
from albef_amc.trainer.training_recipes import (
    VOCABULARY_OF_DATA,
    Recipe,
    build_arguments,
    build_model_and_processor,
    check_data_sets,
    check_model_files,
    load_recipe,
)


def train(
    recipe: Annotated[
        str,
        typer.Argument(help="YAML file, or the name of a recipe that ships. The folder is runs/RECIPE by default."),
    ],
    output_dir: Annotated[Path | None, OUTPUT_FOLDER] = None,  # by default that of the recipe, else runs/RECIPE
    settings: SettingsOption = None,
    resume: Annotated[bool, typer.Option(help="Continue from the newest checkpoint in the folder.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check recipe, data and model, show what would run, and train nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tunes from a recipe; also under torchrun and accelerate launch."""
    with redirect_stdout(sys.stderr):  # the Trainer prints its log
        loaded = load_recipe(recipe, settings or ())
        loaded.card.setdefault("recipe", Path(recipe).stem)
        if output_dir is None:
            output_dir = Path(loaded.output_dir)
            check_folder(output_dir, f"`output_dir` of the recipe ({output_dir})")
        result = check_training(loaded, output_dir, resume) if dry_run else run_training(loaded, output_dir, resume)
    print_result(result, as_json)


def run_training(recipe: Recipe, output_dir: Path, resume: bool = False) -> dict[str, Any]:
    """Trains, evaluates (with `evaluation_data`) and saves; returns the numbers of the run.

    With `resume`, a finished run is not changed, and one that lacks only its final evaluation and save gets these.

    Raises:
        ValueError: the folder holds another run, or a run of this recipe and `resume` is False, or another run uses
            it, or what the recipe asks for is more than the machine or the data has.
        TrainingTerminated: SIGTERM came; a checkpoint is saved, and the process ends with status 143.
        TrainingInterrupted: Ctrl-C came; a checkpoint is saved, and the process ends with status 130.
    """
    check_machine(recipe)
    arguments = build_arguments(recipe, output_dir)
    finished = read_end(output_dir, recipe) if resume else None
    if finished is not None:
        report(f"{output_dir} holds a finished run ({finished['steps']} steps): nothing is left to do.")
        return finished
    _check_settings(recipe, arguments)
    with failing_together(), lock_run_folder(output_dir):
        do_on_main_process(lambda: check_run_folder(output_dir, recipe, resume))
        trainer = _build_trainer(recipe, arguments)
        if trainer.is_world_process_zero():
            store_recipe(output_dir, recipe)
        try:
            result = to_plain({"output_dir": output_dir, **_train_to_the_end(trainer, resume)})
        except (TrainingTerminated, TrainingInterrupted) as stopped:
            name = "Ctrl-C" if isinstance(stopped, TrainingInterrupted) else "SIGTERM"
            report(f"stopped by {name}; {stopped.checkpoint} is saved. Continue with the same command and `--resume`.")
            raise
        except KeyboardInterrupt:
            if list_checkpoints(output_dir):
                report("ended by Ctrl-C. Continue from the newest checkpoint with the same command and `--resume`.")
            raise
        if trainer.is_world_process_zero():
            store_end(output_dir, recipe, result)
    return result


def check_training(recipe: Recipe, output_dir: Path, resume: bool = False) -> dict[str, Any]:
    """Checks all that [`run_training`] checks before the first step, and writes nothing.

    Returns:
        `dict`: the resolved recipe, with the numbers of images, parameters and steps.

    Raises:
        ValueError: as [`run_training`].
    """
    check_machine(recipe)
    _check_settings(recipe, build_arguments(recipe, output_dir))
    do_on_main_process(lambda: check_run_folder(output_dir, recipe, resume))
    with TemporaryDirectory() as folder:
        trainer = _build_trainer(recipe, build_arguments(recipe, folder))
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, (CoverageCallback, NegativesCallback)):
                callback.on_train_begin(trainer.args, trainer.state, trainer.control)
        return {
            "output_dir": output_dir,
            **dataclasses.asdict(recipe),
            "train_images": describe_size(trainer.train_dataset),
            "evaluation_images": len(trainer.eval_dataset or ()),
            "model_class": type(trainer.model).__name__,
            "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
            "steps": _count_steps(trainer),
        }


def _count_steps(trainer: AmcTrainer) -> int:
    """Optimizer steps of a run."""
    if trainer.args.max_steps > 0:
        return trainer.args.max_steps
    steps_per_epoch = math.ceil(len(trainer.get_train_dataloader()) / trainer.args.gradient_accumulation_steps)
    return math.ceil(trainer.args.num_train_epochs * steps_per_epoch)


def _check_settings(recipe: Recipe, arguments: AmcConfig) -> None:
    """Refuses what can be refused before a model or data is loaded."""
    check_optimizer(arguments)
    check_evaluation_settings(recipe, arguments)
    check_data_sets(recipe)
    check_model_files(recipe.model)
    warn_of_other_batch(recipe, arguments)


def _train_to_the_end(trainer: AmcTrainer, resume: bool) -> dict[str, Any]:
    """Steps, evaluation, and the final save with its card."""
    outcome = trainer.train(resume_from_checkpoint=resume or None)
    metrics = trainer.evaluate() if trainer.eval_dataset is not None else {}
    trainer.save_model()
    trainer.save_state()
    return {"steps": trainer.state.global_step, **outcome.metrics, **metrics}


def _build_trainer(recipe: Recipe, arguments: AmcConfig) -> AmcTrainer:
    """Data, model and Trainer of a recipe; data is not read before a model that needs none of it is loaded."""
    needs_phrases = recipe.model.vocabulary == VOCABULARY_OF_DATA
    built = None if needs_phrases else build_model_and_processor(recipe.model, (), arguments.seed)
    train_rows = load_training_data(recipe.train_data)
    evaluation_rows = load_grounding_dataset(**recipe.evaluation_data) if recipe.evaluation_data else None
    report(f"{describe_size(train_rows)}, {len(evaluation_rows or ())} evaluation images")
    check_has_rows(train_rows)
    check_evaluation_rows(evaluation_rows)
    if arguments.amc_weight > 0:
        check_regions(train_rows, arguments.region_source)
    texts = (row["phrases"] for part in list_parts(train_rows) for row in part.select_columns(["phrases"]))
    phrases = (phrase["phrase"] for row in texts for phrase in row)
    model, processor = built or build_model_and_processor(recipe.model, phrases, arguments.seed)
    return AmcTrainer(
        model,
        arguments,
        processor,
        train_dataset=train_rows,
        eval_dataset=evaluation_rows,
        card_details=describe_recipe(recipe),
        peft_config=_build_peft_config(recipe, model),
    )


def _build_peft_config(recipe: Recipe, model: Any) -> Any:
    """LoRA as a recipe wants it; a grounder completes it itself."""
    if recipe.peft is None:
        return None
    if isinstance(model, Grounder):
        from peft import LoraConfig

        return LoraConfig(**recipe.peft)
    return build_lora_config(model.config, **recipe.peft)
