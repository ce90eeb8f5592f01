"""ALBEF's caption lists: images with captions and no boxes, for pre-training."""
