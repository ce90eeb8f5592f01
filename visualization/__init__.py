"""Pictures of the work: heatmaps over photographs, sheets that compare them, curves."""
