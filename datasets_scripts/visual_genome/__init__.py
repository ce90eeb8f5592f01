"""Visual Genome: region descriptions, objects, attributes, attributes with a position, and relationships."""
