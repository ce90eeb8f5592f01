# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Scores of pairs of image and phrase, with the attention that is explained and its gradient.

There are two kinds of model. Where text reads the image in layers of its own, a pass over a pair gives the score, and
phrases share the image below it. Where image and text are encoded apart, the image is encoded once, and the gradient
of every phrase's score is a backward pass of its own from the score to the explained layer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import nn

from albef_amc.explanation_albef import differentiate_score
from albef_amc.grounders.attention_tap import AttentionTap

Tensors = dict[str, torch.Tensor]


class ExplainedRows(NamedTuple):
    """Scores of P phrases, with the rows of the attention map that are explained.

    Args:
        logits (`torch.Tensor` of shape `(P, K)`): outputs of the head; the last column is the score.
        attention_map (`torch.Tensor` of shape `(P, num_heads, rows, columns)`): probabilities before dropout.
        gradient (`torch.Tensor`, shaped like it): gradient of each phrase's score.
    """

    logits: torch.Tensor
    attention_map: torch.Tensor
    gradient: torch.Tensor


@dataclass(frozen=True)
class PairScore:
    """A score from a pass over pairs of image and phrase; the explained rows are those of all tokens.

    Args:
        encode_images (`Callable`): from the model and the image inputs, rows of N images, to the states that phrases
            share, by name and with N rows.
        score_pairs (`Callable`): from the model, states of P images (or of one image that all phrases share, where
            `shares_states`), and `input_ids` and `attention_mask` `(P, T)`, to logits `(P, K)`; the last column is
            the score.
        shares_states (`bool`): `score_pairs` takes the states of one image for any number of phrases.
    """

    encode_images: Callable[[nn.Module, Tensors], Tensors]
    score_pairs: Callable[[nn.Module, Tensors, torch.Tensor, torch.Tensor], torch.Tensor]
    shares_states: bool
    has_token_rows: ClassVar[bool] = True

    def share_images(self, model: nn.Module, images: Tensors) -> Tensors:
        """What the phrases of N images share, from inputs of the model: states, N rows."""
        return self.encode_images(model, images)

    def compute(self, model: nn.Module, states: Tensors, image_index: torch.Tensor, texts: Tensors) -> torch.Tensor:
        """Logits `(P, K)` of P phrases; arguments as for [`explain`]."""
        num_images = len(next(iter(states.values())))
        if not (self.shares_states and num_images == 1):
            states = {name: rows.index_select(0, image_index) for name, rows in states.items()}
        return self.score_pairs(model, states, texts["input_ids"], texts["attention_mask"])

    def explain(
        self,
        model: nn.Module,
        module_name: str,
        states: Tensors,
        image_index: torch.Tensor,
        texts: Tensors,
        keep_graph: bool,
    ) -> ExplainedRows:
        """Explain the scores of P phrases.

        Args:
            model (`nn.Module`): the model.
            module_name (`str`): the attention module that is explained.
            states (`dict`): of [`share_images`], N rows.
            image_index (`torch.Tensor` of shape `(P,)`): image row of each phrase.
            texts (`dict`): `input_ids` and `attention_mask` `(P, T)`.
            keep_graph (`bool`): keep the graph, for a loss on the result.
        """
        with AttentionTap(model, [module_name], keep_graph) as tap:
            logits = self.compute(model, states, image_index, texts)
            (attention_map,) = tap.attention_maps[module_name]
            (gradient,) = differentiate_score(logits[:, -1], [attention_map], keep_graph)
        return ExplainedRows(logits if keep_graph else logits.detach(), attention_map, gradient)


@dataclass(frozen=True)
class SimilarityScore:
    """A score that compares a feature of the image with one of the text; the explained row is the image's first.

    Args:
        encode_images (`Callable`): from the model and the image inputs to features `(N, width)`.
        encode_texts (`Callable`): from the model, `input_ids` and `attention_mask` `(P, T)` to features `(P, width)`.
        compare (`Callable`): from the model and features of P images and P texts to scores `(P,)`.
    """

    encode_images: Callable[[nn.Module, Tensors], torch.Tensor]
    encode_texts: Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
    compare: Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
    has_token_rows: ClassVar[bool] = False

    def share_images(self, model: nn.Module, images: Tensors) -> Tensors:
        """The inputs themselves: what is explained is the encoding of the image."""
        return images

    def compute(self, model: nn.Module, images: Tensors, image_index: torch.Tensor, texts: Tensors) -> torch.Tensor:
        """Logits `(P, 1)` of P phrases; arguments as for [`explain`]."""
        text_features = self.encode_texts(model, texts["input_ids"], texts["attention_mask"])
        image_features = self.encode_images(model, images).index_select(0, image_index)
        return self.compare(model, image_features, text_features)[:, None]

    def explain(
        self,
        model: nn.Module,
        module_name: str,
        images: Tensors,
        image_index: torch.Tensor,
        texts: Tensors,
        keep_graph: bool,
    ) -> ExplainedRows:
        """Explain the scores of P phrases; `images` are inputs of N images, the rest as for [`PairScore.explain`].

        The k-th phrases of all images are differentiated together, because images do not depend on each other.
        """
        with torch.set_grad_enabled(keep_graph):
            text_features = self.encode_texts(model, texts["input_ids"], texts["attention_mask"])
        with AttentionTap(model, [module_name], keep_graph) as tap:
            image_features = self.encode_images(model, images)
            scores = self.compare(model, image_features.index_select(0, image_index), text_features)
            (attention_map,) = tap.attention_maps[module_name]
            ranks = (image_index[:, None] == image_index).tril(-1).sum(dim=1)  # of a phrase among those of its image
            num_rounds = int(ranks.max()) + 1
            gradients, phrases = [], []
            for rank in range(num_rounds):
                chosen = (ranks == rank).nonzero().flatten()
                (gradient,) = torch.autograd.grad(
                    scores[chosen].sum(),
                    attention_map,
                    create_graph=keep_graph,
                    retain_graph=keep_graph or rank < num_rounds - 1,
                )
                gradients.append(gradient[image_index[chosen], :, :1])
                phrases.append(chosen)
        gradient = torch.cat(gradients)[torch.cat(phrases).argsort()]
        logits = scores[:, None] if keep_graph else scores[:, None].detach()
        return ExplainedRows(logits, attention_map[image_index, :, :1], gradient)


__all__ = ["ExplainedRows", "PairScore", "SimilarityScore"]
