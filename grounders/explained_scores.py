# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Scores of pairs of image and phrase, with the attention that is explained and its gradient.

There are two kinds of model. Where text reads the image in layers of its own, a pass over a pair gives the score, and
phrases share the image below it. Where image and text are encoded apart, the image is encoded once, and the gradient
of every phrase's score is a backward pass of its own from the score to the explained layer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import nn

from albef_amc.explanation_albef import differentiate_score
from albef_amc.grounders.attention_tap import AttentionTap

Tensors = dict[str, torch.Tensor]
# From the attention maps of modules `(B, num_heads, rows, columns)` and the gradients of the score of each row of the
# batch to what is kept of them, `(B, ...)`.
ReadMaps = Callable[[list[torch.Tensor], list[torch.Tensor]], torch.Tensor]


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
        logits, rows = self.explain_modules(
            model, [module_name], states, image_index, texts, keep_graph, _read_map_and_gradient
        )
        return ExplainedRows(logits, *rows.unbind(dim=1))

    def explain_modules(
        self,
        model: nn.Module,
        module_names: Sequence[str],
        states: Tensors,
        image_index: torch.Tensor,
        texts: Tensors,
        keep_graph: bool,
        read: ReadMaps,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `(P, K)` of P phrases, and what `read` makes of several modules; the rest as for [`explain`]."""
        with AttentionTap(model, module_names, keep_graph) as tap:
            logits = self.compute(model, states, image_index, texts)
            attention_maps = tap.read_single_maps()
            gradients = differentiate_score(logits[:, -1], attention_maps, keep_graph)
        return logits if keep_graph else logits.detach(), read(attention_maps, gradients)


@dataclass(frozen=True)
class SimilarityScore:
    """A score that compares a feature of the image with one of the text; the explained row is the image's first.

    Args:
        encode_images (`Callable`): from the model and the image inputs to features `(N, width)`.
        encode_texts (`Callable`): from the model, `input_ids` and `attention_mask` `(P, T)` to features `(P, width)`.
        compare (`Callable`): from the model and features of P images and P texts to scores `(P,)`.
        encode_patches (`Callable`): from the model and the image inputs to features `(N, width)`, as `encode_images`,
            and those of patches, `(N, C, width)`; all of unit length.
    """

    encode_images: Callable[[nn.Module, Tensors], torch.Tensor]
    encode_texts: Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
    compare: Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
    encode_patches: Callable[[nn.Module, Tensors], tuple[torch.Tensor, torch.Tensor]]
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
        """Explain the scores of P phrases; `images` are inputs of N images, the rest as for [`PairScore.explain`]."""
        logits, rows = self.explain_modules(
            model, [module_name], images, image_index, texts, keep_graph, _read_first_rows
        )
        return ExplainedRows(logits, *rows.unbind(dim=1))

    def explain_modules(
        self,
        model: nn.Module,
        module_names: Sequence[str],
        images: Tensors,
        image_index: torch.Tensor,
        texts: Tensors,
        keep_graph: bool,
        read: ReadMaps,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `(P, 1)` of P phrases, and what `read` makes of several modules; the rest as for [`explain`].

        The k-th phrases of all images are differentiated together, because images do not depend on each other, and
        read before the next ones.
        """
        with torch.set_grad_enabled(keep_graph):
            text_features = self.encode_texts(model, texts["input_ids"], texts["attention_mask"])
        with AttentionTap(model, module_names, keep_graph) as tap:
            image_features = self.encode_images(model, images)
            scores = self.compare(model, image_features.index_select(0, image_index), text_features)
            attention_maps = tap.read_single_maps()
            ranks = (image_index[:, None] == image_index).tril(-1).sum(dim=1)  # of a phrase among those of its image
            num_rounds = int(ranks.max()) + 1
            values, phrases = [], []
            for rank in range(num_rounds):
                chosen = (ranks == rank).nonzero().flatten()
                gradients = torch.autograd.grad(
                    scores[chosen].sum(),
                    attention_maps,
                    create_graph=keep_graph,
                    retain_graph=keep_graph or rank < num_rounds - 1,
                )
                values.append(read(attention_maps, list(gradients))[image_index[chosen]])
                phrases.append(chosen)
        logits = scores[:, None] if keep_graph else scores[:, None].detach()
        return logits, torch.cat(values)[torch.cat(phrases).argsort()]

    def compare_patches(
        self, model: nn.Module, images: Tensors, image_index: torch.Tensor, texts: Tensors
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `(P, 1)` of P phrases and cosines `(P, C)` of patches and phrases; arguments as for [`explain`]."""
        text_features = self.encode_texts(model, texts["input_ids"], texts["attention_mask"])
        image_features, patches = self.encode_patches(model, images)
        logits = self.compare(model, image_features.index_select(0, image_index), text_features)[:, None]
        cosines = text_features @ patches.transpose(1, 2)  # (N, P, C)
        return logits, cosines[image_index, torch.arange(len(image_index), device=image_index.device)]


def _read_map_and_gradient(attention_maps: list[torch.Tensor], gradients: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([*attention_maps, *gradients], dim=1)


def _read_first_rows(attention_maps: list[torch.Tensor], gradients: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([one[:, :, :1] for one in (*attention_maps, *gradients)], dim=1)


__all__ = ["ExplainedRows", "PairScore", "ReadMaps", "SimilarityScore"]
