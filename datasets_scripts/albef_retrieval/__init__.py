"""ALBEF's lists for image-text retrieval: images with all their captions."""
