"""COCO-style files with phrases: `annotations.json` as COCO has it, phrases with their boxes in `phrases.json`."""

from .coco_phrases import CocoPhrases, CocoPhrasesConfig, choose_split

__all__ = ["CocoPhrases", "CocoPhrasesConfig", "choose_split"]
