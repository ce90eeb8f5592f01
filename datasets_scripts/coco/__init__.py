"""COCO as its authors ship it: objects of `instances_*.json` and captions of `captions_*.json`."""
