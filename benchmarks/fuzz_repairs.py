# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Every message that says that an input was repaired or skipped, collected from the source of the package.

python benchmarks/fuzz_repairs.py    # rewrites the tables of docs/input-checks.md
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PROJECT_FOLDER = Path(__file__).parents[1]
PAGE = PROJECT_FOLDER / "docs" / "input-checks.md"
BUNDLE, BUILDERS, IMPORT_NAME = "modeling_albef_amc", "datasets_scripts", "albef_amc"
IMAGE_FILE = PROJECT_FOLDER / BUNDLE / "image_processing_albef.py"
# Files of the training whose warnings are about rows and settings, not about machines and folders.
ROW_FILES = (
    "conversion/from_encoders.py",
    "trainer/callbacks.py",
    "trainer/data/data_collator.py",
    "evaluation/grounding_evaluation.py",
    "trainer/reliability/stream_batches.py",
)
GAP = "..."


def list_row_messages() -> dict[str, set[str]]:
    """Warnings about what a call of the processor, a training or an evaluation was given: message -> files."""
    paths = [*sorted((PROJECT_FOLDER / BUNDLE).glob("*.py")), *(PROJECT_FOLDER / name for name in ROW_FILES)]
    found = defaultdict(set)
    for path in paths:
        for call in _iterate_calls(path, ("warning", "warning_once")):
            found[_read_text(call.args[0], path)].add(path.stem)
    return dict(found)


def list_builder_messages() -> dict[str, set[str]]:
    """Reasons of the builders' reports: message -> files; `...` stands for what differs."""
    found = defaultdict(set)
    for path in sorted((PROJECT_FOLDER / BUILDERS).rglob("*.py")):
        for message in _list_problems(path):
            found[message].add(_name(path))
        for call in _iterate_calls(path, ("add",)):
            if ast.unparse(call.func).removesuffix(".add").endswith("report"):
                for message in _list_variants(call.args[0], path):
                    found[message].add(_name(path))
    return dict(found)


def _name(path: Path) -> str:
    """A file of the builders by its path in their folder, without its ending."""
    return path.relative_to(PROJECT_FOLDER / BUILDERS).with_suffix("").as_posix()


def _iterate_calls(path: Path, names: tuple[str, ...]) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in names
            and node.args
        ):
            yield node


def _list_variants(node: ast.expr, path: Path) -> list[str]:
    """The messages that an argument stands for; none for what a function returned, which is listed with it."""
    text = _read_text(node, path)
    if text == f"{GAP}: image skipped":  # of a picture that cannot be used
        return [f"{reason}: image skipped" for reason in _list_image_reasons()]
    return [] if text == GAP else [text]


def _read_text(node: ast.expr, path: Path) -> str:
    """A text with gaps; of a name the constant of the module."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
    if isinstance(node, ast.Name):
        return _read_constants(path).get(node.id, GAP)
    return GAP


def _read_constants(path: Path) -> dict[str, str]:
    """Texts that a module, or the one that it takes them from, gives names in capitals."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            constants |= {target.id: node.value.value for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {alias.name for alias in node.names if alias.name.isupper()}
            source = path.parent if node.level else PROJECT_FOLDER
            source = source.joinpath(*node.module.removeprefix(f"{IMPORT_NAME}.").split(".")).with_suffix(".py")
            if names and source.is_file():
                others = _read_constants(source)
                constants |= {name: value for name, value in others.items() if name in names}
    return constants


def _list_problems(path: Path) -> list[str]:
    """What functions called `..._problem` return: reasons of boxes and paths."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.endswith("_problem")
    ]
    values = [node.value for one in functions for node in ast.walk(one) if isinstance(node, ast.Return) and node.value]
    texts = [
        _read_text(value, path) for value in values if not (isinstance(value, ast.Constant) and value.value is None)
    ]
    return [text for text in texts if text != GAP]


def _list_image_reasons() -> list[str]:
    """Reasons that `UnusableImageError` is raised with."""
    tree = ast.parse(IMAGE_FILE.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    raised = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "UnusableImageError"]
    return sorted({_read_text(call.args[1], IMAGE_FILE) for call in raised if len(call.args) > 1})


def build_tables() -> str:
    """The two tables of the page."""
    parts = []
    for name, messages in (("calls", list_row_messages()), ("builders", list_builder_messages())):
        lines = [f"<!-- {name} -->", "| message | said by |", "| --- | --- |"]
        for message, files in sorted(messages.items()):
            lines.append(
                f"| {message.replace('|', chr(92) + '|')} | {', '.join(f'`{file}`' for file in sorted(files))} |"
            )
        parts.append("\n".join([*lines, f"<!-- end of {name} -->"]))
    return "\n\n".join(parts)


def read_page_tables() -> str:
    """The tables as the page has them."""
    text = PAGE.read_text(encoding="utf-8")
    return "\n\n".join(
        found.group()
        for found in re.finditer(r"<!-- (calls|builders) -->.*?<!-- end of \1 -->", text, flags=re.DOTALL)
    )


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for old, new in zip(read_page_tables().split("\n\n"), build_tables().split("\n\n"), strict=True):
        text = text.replace(old, new)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
