# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The distribution and the rules of the tree: packages, wheel contents, who imports whom, headers, sizes."""

import ast
import configparser
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from testing_utils import PROJECT_FOLDER

from albef_amc.checkpoints import HASH_FILE

IMPORT_NAME = "albef_amc"
BUNDLE = "modeling_albef_amc"
# What each folder may import of ours, beside itself: only folders above it in this table. docs/design.md says why.
LAYERS = {
    BUNDLE: set(),
    "checkpoints": set(),
    "metrics": set(),
    "model_cards": set(),
    "grounders": {BUNDLE},
    "configuration": {BUNDLE},
    "conversion": {BUNDLE, "configuration"},
    "datasets_scripts": {BUNDLE, "configuration", "conversion"},
    "visualization": {BUNDLE},
    "lora": {BUNDLE, "configuration"},
    "evaluation": {
        BUNDLE,
        "checkpoints",
        "metrics",
        "model_cards",
        "grounders",
        "configuration",
        "datasets_scripts",
        "visualization",
        "lora",
    },
}
LAYERS["publishing"] = {*LAYERS} - {"visualization"}
LAYERS["trainer"] = {*LAYERS}
LAYERS["cli"] = {*LAYERS}
CODE_FOLDERS = tuple(LAYERS)
BUNDLE_THIRD_PARTY = {"numpy", "torch", "transformers", "huggingface_hub", "PIL"}
NEVER_SHIPPED = {"interrupts_albef"}  # the package root calls it before its imports
MAX_LINES = 700
HEADER = "# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0."


def list_modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (PROJECT_FOLDER / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT_FOLDER))


def read_setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(PROJECT_FOLDER / "setup.cfg")
    return parser


def list_imports(path: Path) -> list[tuple[int, str, str]]:
    """Imports of a module, wherever they stand: (level, module, names)."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", ", ".join(alias.name for alias in node.names)))
    return found


def find_owner(module: str) -> str | None:
    """Folder that a module of ours lies in; `None` for a module of others."""
    first, _, rest = module.partition(".")
    if first != IMPORT_NAME:
        return None
    part = rest.partition(".")[0]
    return part if part in CODE_FOLDERS else BUNDLE


def test_packages_of_setup_cfg_are_those_of_the_tree():
    options = read_setup()["options"]
    packages = options["packages"].split()
    mapping = dict(line.split(" = ") for line in options["package_dir"].strip().splitlines())
    assert mapping == {IMPORT_NAME: BUNDLE} | {
        f"{IMPORT_NAME}.{name}": name for name in CODE_FOLDERS if name != BUNDLE
    }
    inits = [*PROJECT_FOLDER.glob("*/__init__.py"), *PROJECT_FOLDER.glob("*/*/__init__.py")]
    in_tree = {str(path.parent.relative_to(PROJECT_FOLDER)).replace("/", ".") for path in inits}
    assert {IMPORT_NAME if name == BUNDLE else f"{IMPORT_NAME}.{name}" for name in in_tree} == set(packages)


def test_rooms_nest_at_most_one_level():
    deep = [path for folder in CODE_FOLDERS for path in (PROJECT_FOLDER / folder).glob("*/*/*.py")]
    assert [name_of(path) for path in deep] == []
    assert not (PROJECT_FOLDER / IMPORT_NAME).exists(), "a folder of this name would shadow the installed package"


def test_the_version_is_the_same_everywhere():
    import albef_amc

    assert read_setup()["metadata"]["version"] == albef_amc.__version__ == version("albef-amc")
    assert f"version: {albef_amc.__version__}\n" in (PROJECT_FOLDER / "CITATION.cff").read_text()
    assert f"\n## {albef_amc.__version__}" in (PROJECT_FOLDER / "CHANGELOG.md").read_text()
    python = "python" + read_setup()["options"]["python_requires"]
    assert f"`{python}`" in (PROJECT_FOLDER / "README.md").read_text()


def test_constraints_name_every_requirement_and_keep_its_bound():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (PROJECT_FOLDER / "constraints.txt").read_text().splitlines()
    pinned = {
        canonicalize_name(requirement.name): next(iter(requirement.specifier)).version
        for requirement in map(Requirement, (line for line in lines if line and not line.startswith("#")))
    }
    setup = read_setup()
    needed = setup["options"]["install_requires"].split("\n")
    for extra in ("train", "peft", "timm", "track", "dev"):
        needed += setup["options.extras_require"][extra].split("\n")
    for requirement in map(Requirement, filter(None, needed)):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the tree without what builds and runs leave."""
    folder = tmp_path_factory.mktemp("tree") / "source"
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "runs", "tests", "*.egg-info", "__pycache__")
    return shutil.copytree(PROJECT_FOLDER, folder, ignore=unwanted)


@pytest.fixture(scope="module")
def wheel(source) -> list[str]:
    """Names of the files in a wheel that is built from the tree."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--wheel-dir", source.parent, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = source.parent.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


@pytest.mark.slow
def test_the_source_distribution_holds_the_base_model(source, tmp_path):
    program = f"from setuptools import build_meta\nprint(build_meta.build_sdist({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / done.stdout.split()[-1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = [path for path in (source / "checkpoints").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {str(path.relative_to(source)) for path in files} <= names


@pytest.mark.slow
def test_the_wheel_holds_code_and_data(wheel):
    expected = [
        f"{IMPORT_NAME}/py.typed",
        f"{IMPORT_NAME}/model_cards/templates/model_card.md",
        f"{IMPORT_NAME}/metrics/pointing_game/pointing_game.py",
        f"{IMPORT_NAME}/metrics/pointing_game/app.py",
        f"{IMPORT_NAME}/metrics/pointing_game/README.md",
        f"{IMPORT_NAME}/metrics/pointing_game/requirements.txt",
        f"{IMPORT_NAME}/datasets_scripts/synthetic_grounding/README.md",
        f"{IMPORT_NAME}/configuration/models/albef_base.json",
        f"{IMPORT_NAME}/configuration/training/coco_phrases.yaml",
    ]
    assert [name for name in expected if name not in wheel] == []
    for folder in CODE_FOLDERS:
        target = IMPORT_NAME if folder == BUNDLE else f"{IMPORT_NAME}/{folder}"
        for path in (PROJECT_FOLDER / folder).rglob("*"):
            if path.suffix in (".py", ".json", ".yaml", ".md", ".txt", ".safetensors") or path.name == HASH_FILE:
                assert f"{target}/{path.relative_to(PROJECT_FOLDER / folder)}" in wheel


@pytest.mark.slow
def test_the_wheel_holds_nothing_else(wheel):
    info = f"albef_amc-{version('albef-amc')}.dist-info/"
    assert all(name.startswith((f"{IMPORT_NAME}/", info)) for name in wheel)
    assert [name for name in wheel if "__pycache__" in name or name.endswith(".pyc")] == []
    assert any(name.startswith(info) and name.endswith("LICENSE") for name in wheel)


@pytest.mark.parametrize("folder", CODE_FOLDERS)
def test_layers(folder):
    allowed = LAYERS[folder] | {folder}
    for path in list_modules(folder):
        owners = {find_owner(module) for level, module, _ in list_imports(path) if level == 0} - {None}
        assert owners <= allowed, f"{name_of(path)} imports {', '.join(owners - allowed)}"


def test_the_table_of_folders_in_the_design_is_that_of_the_imports():
    text = (PROJECT_FOLDER / "docs" / "design.md").read_text()
    rows = re.findall(r"^\| `(\w+)/` \| .* \| (.*) \|$", text, flags=re.MULTILINE)
    assert [folder for folder, _ in rows] == list(LAYERS)
    for folder, imports in rows:
        above = set(list(LAYERS)[: list(LAYERS).index(folder)])
        exceptions = set(re.findall(r"`(\w+)/`", imports))
        stated = above - exceptions if imports.startswith("all above") else exceptions
        assert stated == LAYERS[folder], f"{folder} imports {imports}"


def test_no_imports_run_in_a_circle():
    """Among all modules, whatever line an import stands in: what is left after removing leaves again and again."""
    names = {path: _name_module(path) for path in list_modules(*CODE_FOLDERS)}
    modules = {name for path, name in names.items() if path.name != "__init__.py"}
    wanted = {}
    for path, name in names.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for level, module, imported in list_imports(path):
            source = f"{package}.{module}" if level else module
            for one in [source, *(f"{source}.{part}" for part in imported.split(", "))]:
                if one in modules and name in modules:
                    wanted.setdefault(name, set()).add(one)
    while leaves := modules - {name for name in modules if wanted.get(name, set()) & modules}:
        modules = modules - leaves
    assert modules == set()


def _name_module(path: Path) -> str:
    parts = path.relative_to(PROJECT_FOLDER).with_suffix("").parts
    parts = [IMPORT_NAME, *(parts[1:] if parts[0] == BUNDLE else parts)]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.slow
@pytest.mark.parametrize("path", list_modules(*CODE_FOLDERS, "tests", "benchmarks", "examples"), ids=name_of)
def test_relative_imports_stay_in_their_folder(path):
    for level, module, names in list_imports(path):
        assert level < 2, f"`from {'.' * level}{module} import {names}` leaves the folder"


@pytest.mark.parametrize("path", list_modules(BUNDLE), ids=name_of)
def test_the_bundle_is_flat_and_closed(path):
    assert path.parent.name == BUNDLE
    siblings = {module.stem for module in list_modules(BUNDLE)}
    for level, module, names in list_imports(path):
        if level:
            assert module in siblings, f"`from .{module} import {names}` is no sibling file"
        else:
            first = module.partition(".")[0]
            assert first in BUNDLE_THIRD_PARTY | sys.stdlib_module_names, f"{module} is not allowed"
    if path.stem != "__init__":
        shipped_imports = {module for level, module, _ in list_imports(path) if level}
        assert path.stem in NEVER_SHIPPED or not shipped_imports & NEVER_SHIPPED


@pytest.mark.parametrize("path", list_modules(BUNDLE), ids=name_of)
def test_no_line_of_text_looks_like_an_import(path):
    """transformers finds what to copy by searching the text; a docstring line must not be taken for an import."""
    found = len(re.findall(r"^\s*(?:from|import)\s+\.", path.read_text(), flags=re.MULTILINE))
    assert found == sum(level > 0 for level, _, _ in list_imports(path))


def test_a_metric_file_stands_alone():
    for path in (PROJECT_FOLDER / "metrics").glob("*/*.py"):
        for level, module, _ in list_imports(path):
            assert level == 0 and find_owner(module) is None, f"{name_of(path)} imports {module}"
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Import) and len(node.names) > 1), "`evaluate` needs one import a line"


@pytest.mark.slow
def test_the_package_root_imports_neither_data_sets_nor_pictures():
    forbidden = "datasets evaluate matplotlib peft albef_amc.trainer albef_amc.cli albef_amc.datasets_scripts".split()
    program = f"import sys, albef_amc\nprint(*[name for name in {forbidden} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", list_modules(*CODE_FOLDERS, "benchmarks", "examples"), ids=name_of)
def test_modules_have_header_docstring_and_a_size(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    if not text.strip():
        assert path.name == "__init__.py"
        return
    assert ast.get_docstring(ast.parse(text)), "no docstring"
    if path.name != "__init__.py":
        assert text.startswith(HEADER + "\n")


def list_text_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT_FOLDER, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: there is no list of the project's files")
    paths = [PROJECT_FOLDER / name for name in listed.stdout.splitlines()]
    binary = (".safetensors", ".pth", ".gz", ".xz", ".png", ".jpg", ".avif", ".parquet", ".zip", ".p")
    return [path for path in paths if path.is_file() and path.suffix not in binary]


def test_no_file_names_a_place_of_one_machine():
    places = re.compile(r"(?<![\w.])/(?:work|tmp|home|root|Users|mnt)/\w")
    found = [name_of(path) for path in list_text_files() if places.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_no_large_file_outside_the_goldens():
    golden = PROJECT_FOLDER / "tests" / "parity" / "golden"
    files = [path for path in (PROJECT_FOLDER / "tests").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert [name_of(path) for path in files if golden not in path.parents and path.stat().st_size > 100_000] == []
    assert sum(path.stat().st_size for path in files if golden in path.parents) < 26_000_000
