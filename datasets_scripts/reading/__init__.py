"""Reading files that others wrote: lists, COCO records, JSON of gigabytes, XML, images, paths."""
