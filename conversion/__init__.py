"""Weights of others: checkpoints of ALBEF and AMC (`.pth`) are converted, encoders of timm and BERT start a model."""
