"""PhraseCut: phrases of Visual Genome images with a box and polygons for every object meant."""
