"""ALBEF's lists for SNLI-VE: photographs of Flickr30k and hypotheses about them."""
