"""Synthetic grounding: scenes of coloured shapes with phrases that need every word, made from a seed."""
