# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The output folder of `albef-amc ground`: it holds one run, and no other file is replaced or removed."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from albef_amc.saving_albef import write_atomically, write_json
from albef_amc.text_files_albef import load_json
from albef_amc.visualization.drawing import is_drawn_picture

JSON_NAME, TABLE_NAME, HEATMAP_SUFFIX = "grounding.json", "grounding.csv", ".npy"
POINT_COLUMNS = ("x", "y")
BOX_COLUMNS = ("x_min", "y_min", "x_max", "y_max")
RESULT_COLUMNS = ("photograph", "width", "height", "checkpoint", "phrase", "score", "is_present")
TABLE_COLUMNS = (*RESULT_COLUMNS, *POINT_COLUMNS, *BOX_COLUMNS, "overlay")
MAX_STEM_BYTES = 200  # file systems allow 255 for a name, and a number and an ending follow


@dataclass
class GroundOutput:
    """Files of a run.

    Args:
        folder (`Path`): where they go; created when the first is written.
        stems (`dict`): photograph -> prefix of the paths of its pictures.
        num_phrases, num_models (`int`): how many overlays a photograph gets, of each model and phrase.
        with_heatmaps, with_table (`bool`): whether heatmaps and the table are written.
        earlier (list of `Path`): pictures and heatmaps of the run whose results the folder holds.
        entries (list of `dict`): what the JSON file holds, one entry per photograph.
    """

    folder: Path
    stems: dict[Path, Path]
    num_phrases: int
    num_models: int
    with_heatmaps: bool
    with_table: bool
    earlier: list[Path] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def plan(
        cls,
        folder: Path,
        photographs: list[Path],
        num_phrases: int,
        num_models: int,
        with_heatmaps: bool,
        with_table: bool,
    ) -> "GroundOutput":
        """Chooses the names of all files.

        Raises:
            ValueError: a file that an earlier run did not write has one of these names.
        """
        names = zip(photographs, choose_stems(photographs), strict=True)
        stems = {photograph: folder / stem for photograph, stem in names}
        output = cls(folder, stems, num_phrases, num_models, with_heatmaps, with_table)
        inputs = {photograph.resolve() for photograph in photographs}
        listed = _list_earlier_files(output.json_path)
        for photograph in photographs:
            for path in output.list_files(photograph):
                if path.exists() and (path.resolve() in inputs or not _is_own(path, listed)):
                    raise ValueError(
                        f"{path} would be overwritten by a picture or heatmap of {photograph}, and no earlier run "
                        "wrote it. Choose another `--output-dir`, or move that file."
                    )
        if with_table and output.table_path.exists() and not _is_own_table(output.table_path):
            raise ValueError(
                f"{output.table_path} would be overwritten, and it is not what `albef-amc ground` writes. Choose "
                "another `--output-dir`, or move that file."
            )
        output.earlier = [path for path in listed if path.resolve() not in inputs and _is_own(path, listed)]
        return output

    @property
    def json_path(self) -> Path:
        """File of the points and boxes."""
        return self.folder / JSON_NAME

    @property
    def table_path(self) -> Path:
        """File of the table."""
        return self.folder / TABLE_NAME

    def list_files(self, photograph: Path) -> list[Path]:
        """Pictures and heatmaps of a photograph."""
        pictures = self.list_pictures(photograph)
        heatmaps = [name_heatmap(path) for path in pictures[:-1]] if self.with_heatmaps else []
        return [*pictures, *heatmaps]

    def list_pictures(self, photograph: Path) -> list[Path]:
        """The overlays of each phrase, model by model, and the sheet of all."""
        stem, phrases = self.stems[photograph], range(1, self.num_phrases + 1)
        endings = [f"{phrase}" for phrase in phrases]
        if self.num_models > 1:
            endings = [f"{phrase}-{model}" for model in range(1, self.num_models + 1) for phrase in phrases]
        return [stem.with_name(f"{stem.name}_{ending}.png") for ending in [*endings, "sheet"]]

    def finish(self) -> int:
        """Writes the JSON file and the table, and removes files of the earlier run that this one has not replaced.

        Returns:
            `int`: how many pictures and heatmaps were removed.
        """
        written = set(list_written_files(self.entries))
        left = [path for path in self.earlier if str(path) not in written]
        write_json(self.json_path, self.entries)
        if self.with_table:
            write_atomically(self.table_path, build_table(self.entries).encode(errors="surrogateescape"))
        elif self.table_path.exists() and _is_own_table(self.table_path):
            self.table_path.unlink()  # of the run before
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)


def list_written_files(entries: list[dict[str, Any]]) -> list[str]:
    """Pictures and heatmaps that the JSON file names."""
    found = [phrase for entry in entries for phrase in entry["phrases"]]
    heatmaps = [phrase["heatmap"] for phrase in found if "heatmap" in phrase]
    return [*(entry["sheet"] for entry in entries), *(phrase["overlay"] for phrase in found), *heatmaps]


def name_heatmap(picture: Path) -> Path:
    """The file of a heatmap beside the overlay that shows it."""
    return picture.with_suffix(HEATMAP_SUFFIX)


def save_heatmap(heatmap: torch.Tensor, picture: Path) -> Path:
    """Writes a heatmap `(height, width)` of a photograph beside its overlay, as float32 for `numpy.load`."""
    encoded = io.BytesIO()
    np.save(encoded, heatmap.float().numpy())
    path = name_heatmap(picture)
    write_atomically(path, encoded.getvalue())
    return path


def build_table(entries: list[dict[str, Any]]) -> str:
    """The results as csv: a line per photograph, model and phrase, with the columns of `TABLE_COLUMNS`."""
    text = io.StringIO()
    table = csv.DictWriter(text, TABLE_COLUMNS, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for entry in entries:
        for found in entry["phrases"]:
            point = dict(zip(POINT_COLUMNS, found["point"], strict=True))
            box = dict(zip(BOX_COLUMNS, found["box"] or [None] * len(BOX_COLUMNS), strict=True))
            table.writerow(entry | found | point | box)
    return text.getvalue()


def choose_stems(paths: list[Path]) -> list[str]:
    """Names for the pictures of photographs: the files' own, numbered where several share one.

    Example:

    ```python
    >>> from pathlib import Path
    >>> from albef_amc.cli.ground_output import choose_stems
    >>> choose_stems([Path("a/dog.jpg"), Path("b/Dog.png"), Path("cup.jpg")])
    ['dog', 'Dog-2', 'cup']

    ```
    """
    stems: list[str] = []
    taken: set[str] = set()  # without regard to case, which not every file system keeps apart
    for path in paths:
        own = path.stem.encode(errors="surrogateescape")[:MAX_STEM_BYTES].decode(errors="ignore")
        stem, number = own, 1
        while stem.casefold() in taken:
            number += 1
            stem = f"{own}-{number}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems


def _list_earlier_files(path: Path) -> list[Path]:
    """Pictures and heatmaps in the folder of a JSON file that the file names.

    Raises:
        ValueError: there is a file, but `albef-amc ground` did not write it.
    """
    if not path.exists():
        return []
    try:
        return [path.parent / Path(name).name for name in list_written_files(load_json(path))]
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError, OSError) as error:
        raise ValueError(
            f"{path} would be overwritten, and it is not what `albef-amc ground` writes. Choose another "
            "`--output-dir`, or move that file."
        ) from error


def _is_own(path: Path, listed: list[Path]) -> bool:
    """Whether an earlier run wrote a file: a picture has its mark, a heatmap is named by the JSON file of the run."""
    return path in listed if path.suffix == HEATMAP_SUFFIX else is_drawn_picture(path)


def _is_own_table(path: Path) -> bool:
    """Whether a file begins with the columns of the table."""
    with path.open("rb") as file:
        return file.readline().strip() == ",".join(TABLE_COLUMNS).encode()
