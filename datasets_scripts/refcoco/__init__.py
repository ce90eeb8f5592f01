"""The RefCOCO family: RefCOCO, RefCOCO+, RefCOCOg and RefCLEF in the form of `lichengunc/refer`."""
