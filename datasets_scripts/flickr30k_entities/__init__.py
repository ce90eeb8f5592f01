"""Flickr30k Entities: five captions per photograph, their mentions, and the boxes of what is mentioned."""

from .flickr30k_entities import Flickr30kEntities, Flickr30kEntitiesConfig

__all__ = ["Flickr30kEntities", "Flickr30kEntitiesConfig"]
