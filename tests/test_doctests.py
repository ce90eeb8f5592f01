# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The examples in docstrings run and give what they say."""

import doctest
import importlib.util
from pathlib import Path

import pytest
from testing_utils import PROJECT_FOLDER

MODELS = "albef_amc.modeling_albef"  # where model classes say that they are from, whichever file defines them
BUNDLE = "modeling_albef_amc"
FOLDERS = tuple(path.parent for path in sorted(PROJECT_FOLDER.glob("*/__init__.py")))


def list_examples() -> list[str]:
    """Import names of the modules that hold an example; folders of metrics are not packages."""
    names = []
    for path in sorted(path for folder in FOLDERS for path in folder.rglob("*.py")):
        folder, *inner = path.relative_to(PROJECT_FOLDER).with_suffix("").parts
        if ">>>" in path.read_text() and not (folder == "metrics" and len(inner) > 1):
            parts = ["albef_amc", *([] if folder == BUNDLE else [folder]), *inner]
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def list_metrics() -> list[Path]:
    return [path for path in sorted((PROJECT_FOLDER / "metrics").glob("*/*.py")) if ">>>" in path.read_text()]


@pytest.mark.parametrize("name", list_examples())
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    exported = [getattr(module, member) for member in getattr(module, "__all__", ()) if name != MODELS]
    models = [member for member in exported if getattr(member, "__module__", None) == MODELS]
    of_models = [test for model in models for test in finder.find(model, model.__name__, module=False)]
    run(finder.find(module, name) + [test for test in of_models if ".auto_class" not in test.name])


@pytest.mark.slow
@pytest.mark.parametrize("path", list_metrics(), ids=lambda path: path.stem)
def test_examples_of_metrics(path, monkeypatch):
    """A metric's class shows its example, which loads it by name from the folder that holds it."""
    monkeypatch.chdir(path.parents[1])
    spec = importlib.util.spec_from_file_location(f"doctest_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run(doctest.DocTestFinder(exclude_empty=True).find(module, module.__name__, module=module))


def run(tests: list[doctest.DocTest]):
    """Runs the examples; if there were none the test would prove nothing."""
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in tests:
        runner.run(test)
    assert runner.tries > 0
    assert runner.failures == 0, "see the output above"
