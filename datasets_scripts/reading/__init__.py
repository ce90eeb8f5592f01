"""Reading what others wrote: images, JSON of any size, XML, boxes and outlines; what cannot be used is reported."""
