"""COCO as its authors ship it: objects of `instances_*.json` and captions of `captions_*.json`."""

from .coco import Coco, CocoConfig

__all__ = ["Coco", "CocoConfig"]
