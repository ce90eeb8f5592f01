"""JSON Lines of your own: one row of the schema per line, images beside the files."""
