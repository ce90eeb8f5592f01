"""KiloGram: tangrams with a description of the whole shape and of its parts, and the pieces of every part."""
