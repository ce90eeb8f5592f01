# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Photographs and phrases that a command is given: files, folders, patterns, a file of phrases."""

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from albef_amc.cli.reporting import report
from albef_amc.image_processing_albef import IMAGE_FORMATS, load_image
from albef_amc.text_files_albef import read_text_file
from albef_amc.text_processing_albef import find_text_problem
from albef_amc.visualization.drawing import is_drawn_picture


def list_photographs(words: Iterable[Path]) -> list[Path]:
    """Files that words of a command name: a file, the pictures in a folder, or those that match a pattern.

    Pictures that albef-amc drew, and hidden files, are not among those of a folder or a pattern. A file that is named
    several times is listed once. Both are reported.

    Args:
        words (iterable of `Path`): in the order of the command; files of a folder or a pattern follow by name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a folder without pictures, or a pattern that matches none.
    """
    found: list[Path] = []
    num_drawn = 0
    for word in words:
        is_pattern = not word.exists() and glob.has_magic(str(word))
        if not word.is_dir() and not is_pattern:
            if not word.exists():
                raise FileNotFoundError(f"No image file at {word}. Check the path; web addresses are not downloaded.")
            found.append(word)
            continue
        files = word.iterdir() if word.is_dir() else map(Path, glob.glob(str(word), recursive=True))
        pictures = sorted(file for file in files if _is_picture(file))
        own = [file for file in pictures if not is_drawn_picture(file)]
        num_drawn += len(pictures) - len(own)
        if not own:
            what = "is a folder without pictures" if word.is_dir() else "matches no picture"
            raise ValueError(f"{word} {what}. Give image files, folders that hold some, or patterns such as `*.jpg`.")
        found += own
    if num_drawn:
        report(f"{num_drawn} pictures that albef-amc drew are no photographs: they are left out")
    kept: dict[Path, Path] = {}
    for path in found:
        kept.setdefault(path.resolve(), path)
    if len(kept) < len(found):
        report(f"{len(found) - len(kept)} photographs were given more than once: each is grounded once")
    return list(kept.values())


def _is_picture(path: Path) -> bool:
    """Whether a file is not hidden, and its ending that of a picture."""
    picture_format = Image.registered_extensions().get(path.suffix.lower())
    return picture_format in IMAGE_FORMATS and not path.name.startswith(".") and path.is_file()


def list_phrases(phrases: Iterable[str], file: Path | None) -> list[str]:
    """Phrases of a command and of the lines of a file, each once.

    Args:
        phrases (iterable of `str`): of `--phrase`.
        file (`Path`, *optional*): of `--phrases-file`: a phrase in each line; empty lines are skipped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no phrase, a phrase without words, or a file that is not text.
    """
    given = [(words, f"`--phrase {words!r}`") for words in phrases]
    if file is not None:
        lines = enumerate(read_text_file(file).splitlines(), start=1)
        given += [(line.strip(), f"line {number} of {file}") for number, line in lines if line.strip()]
    if not given:
        raise ValueError("no phrase: give `--phrase`, or a `--phrases-file` with a phrase in each line.")
    for words, place in given:
        problem = find_text_problem(words)
        if problem:
            raise ValueError(f"{place} {problem}. Give a phrase with at least one word.")
    kept = list(dict.fromkeys(words for words, _ in given))
    if len(kept) < len(given):
        report(f"{len(given) - len(kept)} phrases were given more than once: each is grounded once")
    return kept


def read_photographs(paths: Iterable[Path], skipped: list[dict[str, str]]) -> Iterator[tuple[Path, Image.Image]]:
    """The photographs that can be read, each when it is asked for.

    Args:
        paths (iterable of `Path`): files.
        skipped (list): receives the path of each that cannot be read, and the reason, which is also reported.
    """
    for path in paths:
        try:
            image = load_image(path)
        except (OSError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            report(f"skipped: {reason}")
            skipped.append({"photograph": str(path), "reason": reason})
        else:
            yield path, image
