"""Checkpoints that ship with the package."""

from .base_model import BASE_MODEL, BASE_MODEL_NAME, HASH_FILE, check_base_model, hash_files

__all__ = ["BASE_MODEL", "BASE_MODEL_NAME", "HASH_FILE", "check_base_model", "hash_files"]
