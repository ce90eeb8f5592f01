"""ALBEF's lists for SNLI-VE: images of Flickr30k and hypotheses about them."""
