"""Evaluation: protocols, heatmaps over a data set, results, intervals, and loading the checkpoint to evaluate."""
