"""ALBEF's caption lists: images with captions and no boxes, for pre-training."""

from .albef_json import AlbefJson

__all__ = ["AlbefJson"]
