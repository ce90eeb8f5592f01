"""The RefCOCO family: RefCOCO, RefCOCO+, RefCOCOg and RefCLEF in the format of `lichengunc/refer`."""
