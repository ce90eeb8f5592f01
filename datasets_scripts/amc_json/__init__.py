"""AMC's training lists: Visual Genome as entries of an image, its captions and their boxes."""
