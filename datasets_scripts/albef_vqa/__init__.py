"""ALBEF's lists for visual question answering (VQA v2, questions of Visual Genome)."""
