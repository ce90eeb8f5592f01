"""ALBEF's lists for NLVR2: pairs of images and sentences that are true or false of them."""

from .albef_nlvr2 import AlbefNlvr2

__all__ = ["AlbefNlvr2"]
