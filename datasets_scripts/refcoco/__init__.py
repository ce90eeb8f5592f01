"""The RefCOCO family: RefCOCO, RefCOCO+, RefCOCOg and RefCLEF in the form of `lichengunc/refer`."""

from .refcoco import RefCoco, RefCocoConfig

__all__ = ["RefCoco", "RefCocoConfig"]
