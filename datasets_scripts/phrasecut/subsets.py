# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""PhraseCut's subsets of phrases that follow from its files: they become the types of a phrase."""

from typing import Any

# (exclusive upper rank, suffix) of the bands of categories and attributes, most frequent first.
CATEGORY_BANDS = ((20, "20"), (100, "21-100"), (500, "101-500"))
CATEGORY_TOPS = ((100, "100"), (500, "500"))
ATTRIBUTE_BANDS = ((20, "20"), (100, "21-100"), (200, "101-200"))
ATTRIBUTE_TOPS = ((100, "100"), (200, "200"))
STRUCTURES = {"name": "p_name", "attribute": "p_att+", "relation": "p_rel+", "verbose": "p_verbose"}
MANY_INSTANCES = 5
# Fractions of the image: small regions are below the first, large ones above the second.
SMALL_SHARE, LARGE_SHARE = 0.02, 0.2


def list_subsets(
    structure: dict[str, Any],
    category_ranks: dict[str, int],
    attribute_ranks: dict[str, int],
    num_instances: int,
    region_share: float,
    is_in_coco: bool,
) -> list[str]:
    """List the subsets that a phrase belongs to, sorted.

    Subsets that need the authors' word lists are not listed: `t_stuff`, `t_obj`, `c_coco`, and `a_color` to `a_bad`.

    Args:
        structure (`dict`): `phrase_structure` of the task.
        category_ranks, attribute_ranks (`dict`): rank of a word in `name_att_rel_count.json`, from 0.
        num_instances (`int`): objects that the phrase names.
        region_share (`float`): pixels of the region over pixels of the image.
        is_in_coco (`bool`): whether the image is one of COCO's training or validation images.

    Returns:
        `list[str]`: the authors' names of the subsets.

    Example:
        >>> structure = {"name": "car", "attributes": ["red"], "relation_descriptions": [], "type": "attribute"}
        >>> list_subsets(structure, {"car": 30}, {"red": 0}, 1, 0.1, True)
        ['a100', 'a20', 'a200', 'c100', 'c21-100', 'c500', 'd_cocotv', 'i_single', 'p_att', 'p_att+', 's_mid']
    """
    attributes, relations = structure["attributes"], structure["relation_descriptions"]
    category_rank = category_ranks.get(structure["name"], CATEGORY_BANDS[-1][0])
    lowest = ATTRIBUTE_BANDS[-1][0]
    attribute_rank = min((attribute_ranks.get(attribute, lowest) for attribute in attributes), default=lowest)
    subsets = {
        *_list_ranks("c", category_rank, CATEGORY_BANDS, CATEGORY_TOPS),
        *_list_ranks("a", attribute_rank, ATTRIBUTE_BANDS, ATTRIBUTE_TOPS),
        "d_cocotv" if is_in_coco else "d_notcocotv",
        "i_many" if num_instances >= MANY_INSTANCES else "i_multi" if num_instances > 1 else "i_single",
        "s_small" if region_share < SMALL_SHARE else "s_large" if region_share > LARGE_SHARE else "s_mid",
        *(name for words, name in ((attributes, "p_att"), (relations, "p_rel")) if words),
        *(name for words, name in ((attributes, "p_attm"), (relations, "p_relm")) if len(words) > 1),
        *(["p_att_rel"] if attributes and relations else []),
        *([STRUCTURES[structure["type"]]] if structure.get("type") in STRUCTURES else []),
    }
    return sorted(subsets)


def _list_ranks(
    letter: str, rank: int, bands: tuple[tuple[int, str], ...], tops: tuple[tuple[int, str], ...]
) -> list[str]:
    """Band of a rank, and every list of most frequent words that contains it."""
    beyond = f"{bands[-1][0]}+"
    band = next((name for bound, name in bands if rank < bound), beyond)
    return [letter + band, *(letter + name for bound, name in tops if rank < bound)]
