"""Publishing: checkpoints and data sets to the Hub, and raw files to Parquet with a card."""
