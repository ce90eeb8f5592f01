"""Visual Genome: region descriptions, objects, attributes, attributes with a place, and relationships."""

from .visual_genome import VisualGenome, VisualGenomeConfig

__all__ = ["VisualGenome", "VisualGenomeConfig"]
