"""COCO as published: objects of `instances_*.json` and captions of `captions_*.json`."""
