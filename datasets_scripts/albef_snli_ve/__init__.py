"""ALBEF's lists for SNLI-VE: photographs of Flickr30k and hypotheses about them."""

from .albef_snli_ve import AlbefSnliVe

__all__ = ["AlbefSnliVe"]
