"""PhraseCut: phrases about Visual Genome images, with a box and polygons for every object that a phrase names."""
