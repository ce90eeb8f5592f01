"""ALBEF's lists for NLVR2: pairs of images and sentences that are true or false of them."""
