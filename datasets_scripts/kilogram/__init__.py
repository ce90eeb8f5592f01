"""KiloGram: tangrams described as a whole and part by part, with the pieces of every part."""
