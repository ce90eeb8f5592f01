"""Visual Genome: region descriptions, objects, attributes, attributes with a place, and relationships."""
