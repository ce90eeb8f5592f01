# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Whose weights a checkpoint derives from: licences, notices, limits to state, and the papers to cite."""

from dataclasses import dataclass

ALBEF_NOTICE = (
    "Weights derived from ALBEF (Li et al., NeurIPS 2021): BSD-3-Clause, Copyright (c) 2021, salesforce.com, inc. All "
    "rights reserved."
)
AMC_NOTICE = "Weights derived from AMC (Yang et al., CVPR 2023): MIT, Copyright (c) 2023 Rice-UVA Computer Vision."
OTHER_NOTICE = "Weights derived from the base model of this card: its licence holds for them."
CODE_NOTICE = "Code of this repository: Apache-2.0, the albef-amc authors."
ALBEF_LIMIT = "ALBEF was pre-trained on COCO images; the test images of RefCOCO+ are among them (said by its authors)."


@dataclass(frozen=True)
class Source:
    """Where weights come from: the licence that the Hub shows, the notices that they carry, the limits to state."""

    licence: str
    notices: tuple[str, ...]
    limits: tuple[str, ...] = ()


SOURCES = {
    "albef-amc": Source("apache-2.0", ("Weights: Apache-2.0, the albef-amc authors.", CODE_NOTICE)),
    "albef": Source("bsd-3-clause", (ALBEF_NOTICE, CODE_NOTICE), (ALBEF_LIMIT,)),
    "amc": Source("mit", (AMC_NOTICE, ALBEF_NOTICE, CODE_NOTICE), (ALBEF_LIMIT,)),
    "other": Source("other", (OTHER_NOTICE,)),
}

CITATIONS = """\
@inproceedings{li2021albef,
  title     = {Align before Fuse: Vision and Language Representation Learning with Momentum Distillation},
  author    = {Li, Junnan and Selvaraju, Ramprasaath R. and Gotmare, Akhilesh Deepak and Joty, Shafiq and
               Xiong, Caiming and Hoi, Steven C. H.},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2021}
}

@inproceedings{yang2023amc,
  title     = {Improving Visual Grounding by Encouraging Consistent Gradient-based Explanations},
  author    = {Yang, Ziyan and Kafle, Kushal and Dernoncourt, Franck and Ordonez, Vicente},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2023}
}"""
