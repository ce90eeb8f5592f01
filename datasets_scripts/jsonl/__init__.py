"""JSON Lines of one's own: a row of the schema per line, images beside the files."""

from .jsonl import Jsonl, JsonlConfig

__all__ = ["Jsonl", "JsonlConfig"]
