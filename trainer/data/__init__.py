"""What training reads: collator, augmentation, mixtures, streams, the order of an epoch."""
