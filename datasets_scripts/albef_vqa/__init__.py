"""ALBEF's lists for visual question answering (VQA v2, questions of Visual Genome) and its list of answers."""

from .albef_vqa import AlbefVqa, AlbefVqaConfig, read_answer_list

__all__ = ["AlbefVqa", "AlbefVqaConfig", "read_answer_list"]
