"""VQA v2 as its authors ship it: questions and annotations of COCO's images."""

from .vqa_v2 import VqaV2, VqaV2Config

__all__ = ["VqaV2", "VqaV2Config"]
