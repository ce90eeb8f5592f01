# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The command `albef-amc`: finds the verb, runs it, and turns an error into one line and an exit status.

Exit status 0: done. 2: bad input (an unknown option, a missing file, a value that cannot be used), in one line.
1: it failed for another reason; an unexpected error shows its traceback. 130: interrupted. 143: stopped by
SIGTERM, in training after a checkpoint was saved.

`python -m albef_amc.cli.main` is the same command, and so is `torchrun -m albef_amc.cli.main` in each process.
"""

import errno
import importlib
import keyword
import sys
import traceback
from typing import Annotated

import typer

from albef_amc.cli.options import report_earlier_names
from albef_amc.cli.reporting import keep_deepspeed_quiet, logging_to_stderr
from albef_amc.interrupts_albef import restore_interrupts

# Verb: what `albef-amc --help` says about it. A verb is the function of its name in the module of its name
# (with `_` after a word that Python keeps for itself).
VERBS = {
    "demo": "Train the base model that ships with and without AMC on synthetic scenes, and compare.",
    "train": "Fine-tune from a recipe; also under torchrun and accelerate launch.",
    "evaluate": "Score a checkpoint on a data set, per split and phrase type.",
    "ground": "Show where phrases are in photographs: JSON and overlays.",
    "calibrate": "Make the matching score of a checkpoint a probability, to decide what is there.",
    "convert": "Turn an original .pth of ALBEF or AMC into a checkpoint folder.",
    "merge": "Turn a LoRA adapter and its base into a plain checkpoint.",
    "push": "Upload a checkpoint with its processor, code and card to the Hub.",
    "import": "Turn annotations of COCO, YOLO, Label Studio, JSON Lines or csv into a data set of your own.",
    "build-dataset": "Turn raw files into Parquet with a dataset card, and push it to the Hub.",
    "inspect-dataset": "Draw rows with phrases and boxes; print statistics.",
    "recipes": "List the training recipes that ship.",
    "builders": "List the data sets that are read by name.",
    "models": "List the model that ships, and the types of models that have heatmaps.",
    "env": "Versions, devices and attention back-ends, for bug reports.",
}

# Operating-system errors that are about the machine, not about the input.
MACHINE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ENOMEM}


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit status; no exception of a verb leaves this function.

    Args:
        argv (list of `str`, *optional*): words after `albef-amc`; those of the command line by default.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    verb = next((word for word in argv if not word.startswith("-")), None)
    try:
        with logging_to_stderr():
            command = build_command(verb)
            restore_interrupts()
            report_earlier_names(verb, argv)
            command(args=argv, prog_name="albef-amc")
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        status = 130
    except Exception as error:
        status = _explain(error, show_traceback=argv[:1] == ["--debug"])
    else:
        status = 0
    _leave_process_group(wait_for_others=status == 0)
    return status


def build_command(verb: str | None):
    """The command with all its verbs, of which only `verb` is imported: `--help` does not wait for torch.

    Args:
        verb (`str`, *optional*): the verb about to run. The others appear with their help line alone.
    """
    app = typer.Typer(
        help="ALBEF and AMC: find where a phrase is in an image, and train models to find it.",
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},  # verbs inherit them
    )
    app.callback()(_common_options)
    for name, description in VERBS.items():
        function = _not_imported
        if name == verb:
            function_name = name.replace("-", "_") + "_" * keyword.iskeyword(name)
            function = getattr(importlib.import_module(f"albef_amc.cli.{function_name}"), function_name)
            keep_deepspeed_quiet()
        app.command(name, short_help=description)(function)
    return typer.main.get_command(app)


def _not_imported() -> None:
    """Stands for a verb that this process does not run."""


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"albef-amc {version('albef-amc')}")
        raise typer.Exit()


def _common_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of any error; first word.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options before the verb. `--debug` is read by [`main`], which also explains errors of the import."""


def _explain(error: Exception, show_traceback: bool) -> int:
    """Prints one line about an error on standard error, and returns the exit status."""
    bad_input = _is_bad_input(error)
    if show_traceback or not (bad_input or isinstance(error, (OSError, ImportError, FloatingPointError))):
        traceback.print_exception(error, file=sys.stderr)
    from albef_amc.messages_albef import find_message

    words = " ".join(find_message(error).split()) or type(error).__name__
    if isinstance(error, ModuleNotFoundError) and "pip install" not in words:
        from albef_amc.configuration.installation import name_installation

        words += f". Install what this command needs with {name_installation('train')}."
    elif not bad_input:
        words = f"{type(error).__name__}: {words}"
    print(f"albef-amc: error: {words}", file=sys.stderr, flush=True)
    return 2 if bad_input else 1


def _is_bad_input(error: Exception) -> bool:
    """Whether the input is at fault, not the machine or the code."""
    from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError

    if isinstance(error, OSError):
        return error.errno not in MACHINE_ERRNOS and not isinstance(error, (ConnectionError, ChildProcessError))
    invalid_configuration = (StrictDataclassClassValidationError, StrictDataclassFieldValidationError)
    return isinstance(error, (ValueError, TypeError, NotImplementedError, *invalid_configuration))


def _leave_process_group(wait_for_others: bool) -> None:
    """Closes the process group that a launcher opened: without this, processes sometimes abort when they end."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return
    if wait_for_others:
        distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
