"""Fault tolerance: complete checkpoints, exact resume, signals, steps whose loss is not finite."""
