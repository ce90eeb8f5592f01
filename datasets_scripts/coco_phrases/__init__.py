"""COCO-style files with phrases: `annotations.json` as COCO has it, phrases with their boxes in `phrases.json`."""
