"""LoRA adapters: what they adapt, their files, and training with them."""
