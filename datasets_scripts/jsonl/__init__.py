"""JSON Lines of one's own: a row of the schema per line, images beside the files."""
