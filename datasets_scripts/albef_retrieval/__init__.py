"""ALBEF's lists for image-text retrieval: images with all their captions."""

from .albef_retrieval import AlbefRetrieval

__all__ = ["AlbefRetrieval"]
