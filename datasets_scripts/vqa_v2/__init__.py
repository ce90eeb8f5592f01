"""VQA v2 as its authors ship it: questions and annotations of COCO's images."""
