# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The output folder of `albef-amc ground`: it holds one run, and no other file is replaced or removed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from albef_amc.saving_albef import write_json
from albef_amc.text_files_albef import load_json
from albef_amc.visualization.drawing import is_drawn_picture

JSON_NAME = "grounding.json"
MAX_STEM_BYTES = 200  # file systems allow 255 for a name, and a number and an ending follow


@dataclass
class GroundOutput:
    """Files of a run.

    Args:
        folder (`Path`): where they go; created when the first is written.
        stems (`dict`): photograph -> prefix of the paths of its pictures.
        num_phrases, num_models (`int`): how many overlays a photograph gets, of each model and phrase.
        earlier (list of `Path`): pictures of the run whose results the folder holds.
        entries (list of `dict`): what the JSON file holds, one entry per photograph.
    """

    folder: Path
    stems: dict[Path, Path]
    num_phrases: int
    num_models: int
    earlier: list[Path] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def plan(cls, folder: Path, photographs: list[Path], num_phrases: int, num_models: int) -> "GroundOutput":
        """Chooses the names of all files.

        Raises:
            ValueError: a file that an earlier run did not write has one of these names.
        """
        names = zip(photographs, choose_stems(photographs), strict=True)
        output = cls(folder, {photograph: folder / stem for photograph, stem in names}, num_phrases, num_models)
        inputs = {photograph.resolve() for photograph in photographs}
        for photograph in photographs:
            for path in output.list_pictures(photograph):
                if path.exists() and (path.resolve() in inputs or not is_drawn_picture(path)):
                    raise ValueError(
                        f"{path} would be overwritten by a picture of {photograph}, and no earlier run wrote it. "
                        "Choose another `--output-dir`, or move that file."
                    )
        listed = _list_earlier_pictures(output.json_path)
        output.earlier = [path for path in listed if path.resolve() not in inputs and is_drawn_picture(path)]
        return output

    @property
    def json_path(self) -> Path:
        """File of the points and boxes."""
        return self.folder / JSON_NAME

    def list_pictures(self, photograph: Path) -> list[Path]:
        """The overlays of each phrase, model by model, and the sheet of all."""
        stem, phrases = self.stems[photograph], range(1, self.num_phrases + 1)
        endings = [f"{phrase}" for phrase in phrases]
        if self.num_models > 1:
            endings = [f"{phrase}-{model}" for model in range(1, self.num_models + 1) for phrase in phrases]
        return [stem.with_name(f"{stem.name}_{ending}.png") for ending in [*endings, "sheet"]]

    def finish(self) -> int:
        """Writes the JSON file and removes the pictures of the earlier run that this one has not replaced.

        Returns:
            `int`: how many pictures were removed.
        """
        written = {entry["sheet"] for entry in self.entries}
        written |= {found["overlay"] for entry in self.entries for found in entry["phrases"]}
        left = [path for path in self.earlier if str(path) not in written]
        write_json(self.json_path, self.entries)
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)


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


def _list_earlier_pictures(path: Path) -> list[Path]:
    """Pictures in the folder of a JSON file that the file names.

    Raises:
        ValueError: there is a file, but `albef-amc ground` did not write it.
    """
    if not path.exists():
        return []
    try:
        entries = load_json(path)
        names = [entry["sheet"] for entry in entries]
        names += [found["overlay"] for entry in entries for found in entry["phrases"]]
        return [path.parent / Path(name).name for name in names]
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError, OSError) as error:
        raise ValueError(
            f"{path} would be overwritten, and it is not what `albef-amc ground` writes. Choose another "
            "`--output-dir`, or move that file."
        ) from error
