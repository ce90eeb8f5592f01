"""Annotations of other tools (COCO, YOLO, Label Studio, JSON Lines, csv) as a folder for the builder `jsonl`."""
