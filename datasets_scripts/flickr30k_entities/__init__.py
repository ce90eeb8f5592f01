"""Flickr30k Entities: five captions per photograph, their mentions, and the boxes of what is mentioned."""
