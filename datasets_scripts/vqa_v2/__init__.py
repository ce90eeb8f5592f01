"""VQA v2 as published: questions and annotations of COCO's images."""
