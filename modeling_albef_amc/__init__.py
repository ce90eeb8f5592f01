"""albef-amc: ALBEF for the Hugging Face Hub, its Grad-CAM heatmaps, and their training with AMC."""
