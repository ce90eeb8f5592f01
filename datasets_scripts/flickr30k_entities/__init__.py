"""Flickr30k Entities: five captions per image, the mentions in them, and the boxes of the mentioned objects."""
