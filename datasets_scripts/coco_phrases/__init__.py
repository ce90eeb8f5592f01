"""COCO-style files with phrases: `annotations.json` in COCO's format, phrases with their boxes in `phrases.json`."""
