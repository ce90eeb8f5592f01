"""Synthetic grounding: scenes of coloured shapes with phrases that need every word, generated from a seed."""
