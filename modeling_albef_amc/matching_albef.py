# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF with the matching head: scores of image and phrase, heatmaps that explain them, and retrieval by them.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651). The heatmap that the heads return with
`output_heatmap=True` is the Grad-CAM of Yang et al., CVPR 2023 (arXiv 2206.15462), computed inside `forward`.
Retrieval (section 4) has two stages: contrastive similarities choose k candidates of every query, the matching head
ranks them. Shortlists and scores are those of the released implementation, which fuses a pair again for each shortlist
that holds it, and projects keys and values once per pair.
"""

from collections.abc import Iterable
from typing import get_args

import torch
from torch import nn
from transformers import AutoModelForZeroShotObjectDetection
from transformers.utils import can_return_tuple

from .base_albef import AlbefModel
from .configuration_albef import ITM_MATCH_INDEX, AlbefConfig
from .encoders_albef import AlbefTextModel, AlbefVisionModel, KeysValues
from .explanation_albef import (
    ExplainedScore,
    Explanation,
    ExplanationKind,
    HeatmapDenominator,
    at_least_float32,
    check_explanation,
    differentiate_score,
    evaluation_mode,
    explain_attention,
    outside_inference_mode,
    resolve_token_mask,
)
from .galleries_albef import (
    NOT_LISTED,
    Batch,
    EncodedImages,
    EncodedTexts,
    check_features,
    check_galleries,
    get_tensor,
    iterate_batches,
    list_best,
    rank_listed,
)
from .inference_albef import (
    PackedLinear,
    QuantizedLinear,
    check_inference_layers,
    check_packed_dtype,
    refuse_inference_layers,
    replace_linear_layers,
)
from .layout_albef import (
    PhraseLayout,
    build_layout,
    check_phrase_inputs,
    check_tokens,
    chunk_by_length,
    pad_tokens,
    select_rows,
)
from .outputs_albef import AlbefGroundingOutput, AlbefRetrievalScores
from .pretrained_albef import AlbefPreTrainedModel
from .ranges_albef import COUNT, check_choice, check_number

# Graphs of `compile_encoders` at most; all layers of all encoders, in training and in evaluation, share them.
RECOMPILE_LIMIT = 32
CUDA_GRAPH_MODES = ("reduce-overhead", "max-autotune")  # modes of `torch.compile` that record CUDA graphs


class AlbefMatchingModel(AlbefPreTrainedModel):
    """Matching head, heatmaps, `ground` and `retrieve`, shared by the classes that score pairs of image and phrase.

    A subclass adds its own modules after `super().__init__` and ends with `self.post_init()`.
    """

    def __init__(self, config: AlbefConfig):
        super().__init__(config)
        self.albef = AlbefModel(config)
        self.itm_head = nn.Linear(config.text_config.hidden_size, 2)

    def get_input_embeddings(self) -> nn.Module:
        return self.albef.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.albef.set_input_embeddings(value)

    def compile_encoders(self, **options) -> None:
        r"""Compiles image and text encoder in place, layer by layer, with [`torch.compile`].

        Weights keep their names, so checkpoints stay as they are. The first calls take the time to compile: once for
        a new number of images and once for any further ones, and likewise for phrases; later calls do not compile
        again. Fusion layers are not compiled. From the explanation layer on they are differentiated twice, which
        compiled code cannot be. Below it, phrases share images in so many ways that they would be compiled again and
        again. With `explanation_kind="itc"` the blocks from `explanation_block` on run uncompiled.

        Args:
            options: as for `torch.compile` (`backend`, `mode`, `dynamic`, ...). `recompile_limit` is 32 by default.

        Raises:
            ValueError: a `mode`, or `triton.cudagraphs` among the `options`, that records CUDA graphs: one for every
                shape, while the number of phrases and their tokens change from batch to batch; or a model whose
                weights are packed or quantised.

        Example:

        ```python
        >>> from albef_amc import AlbefConfig, AlbefForImageTextMatching
        >>> small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
        >>> config = AlbefConfig(
        ...     vision_config=dict(small, image_size=32, patch_size=16), explanation_layer=1, explanation_block=1,
        ...     text_config=dict(small, fusion_layer=1, vocab_size=50))
        >>> model = AlbefForImageTextMatching(config)
        >>> model.compile_encoders(mode="max-autotune-no-cudagraphs")

        ```
        """
        refuse_inference_layers(self, "compiled")
        mode, has_graphs = options.get("mode"), (options.get("options") or {}).get("triton.cudagraphs")
        if mode in CUDA_GRAPH_MODES or has_graphs:
            given = f"mode={mode!r}" if mode in CUDA_GRAPH_MODES else "options={'triton.cudagraphs': True}"
            raise ValueError(
                f"`{given}` records a CUDA graph for every shape, but the number of phrases and their tokens change "
                'from batch to batch. Leave it out, or pass `mode="max-autotune-no-cudagraphs"`.'
            )
        options.setdefault("recompile_limit", RECOMPILE_LIMIT)
        for encoder in self.modules():
            if isinstance(encoder, (AlbefVisionModel, AlbefTextModel)):
                last = encoder.config.fusion_layer if isinstance(encoder, AlbefTextModel) else None
                for layer in encoder.layers[:last]:
                    layer.compile(**options)

    def pack_weights(self, dtype: torch.dtype | None = None) -> None:
        r"""Prepares the model for inference on a CPU: oneDNN computes most linear layers, with weights in its layout.

        These are the linear layers of the image encoder's blocks and of the text layers below the explained one, and
        the projections of images to keys and values. Layers from the explained one on have a gradient and stay as
        they are. In float32 only the order of sums changes. With bfloat16 weights in a float32 model, `ground` must
        run under `torch.autocast("cpu", torch.bfloat16)`, which would convert the weights in every call; results are
        those of autocast.

        Afterwards the model stays on the CPU. It cannot be trained, saved, compiled or explained with
        `explanation_kind="itc"`.

        Args:
            dtype (`torch.dtype`, *optional*): `torch.float32` or `torch.bfloat16`; that of the model by default.

        Raises:
            ValueError: a model on a GPU, with an adapter or with packed weights, another `dtype`, or one that the CPU
                cannot compute with.

        Example:

        ```python
        >>> from albef_amc import AlbefConfig, AlbefForImageTextMatching
        >>> small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
        >>> config = AlbefConfig(
        ...     vision_config=dict(small, image_size=32, patch_size=16), explanation_layer=1, explanation_block=1,
        ...     text_config=dict(small, fusion_layer=1, vocab_size=50))
        >>> model = AlbefForImageTextMatching(config).eval()
        >>> model.pack_weights()

        ```
        """
        dtype = self.dtype if dtype is None else dtype
        check_inference_layers(self, self.device, "pack_weights")
        refuse_inference_layers(self, "packed again", PackedLinear)
        check_packed_dtype(dtype)

        def pack(linear: nn.Linear) -> PackedLinear:
            return PackedLinear(linear, dtype)

        text_model, explained = self.albef.text_model, self.config.explanation_layer
        replace_linear_layers(self.albef.vision_model.layers, pack)
        replace_linear_layers(text_model.layers[:explained], pack)
        for layer in text_model.layers[max(explained, text_model.config.fusion_layer) :]:
            attention = layer.cross_attention
            attention.k_proj, attention.v_proj = pack(attention.k_proj), pack(attention.v_proj)
        self.eval()

    def quantize_image_encoder(self) -> None:
        r"""Prepares the model for inference on a CPU: the image encoder's linear layers compute in int8.

        These are the four linear layers of each of its blocks; everything else stays as it is, and may run in
        bfloat16 (`torch.autocast`, [`pack_weights`] afterwards). Weights have one scale per output, inputs one scale
        per call. docs/speed-and-memory.md shows how much heatmaps change.

        Afterwards the model stays on the CPU. It cannot be trained, saved, compiled or explained with
        `explanation_kind="itc"`.

        Raises:
            ValueError: a model on a GPU, with an adapter, or whose weights are packed or quantised already.
        """
        check_inference_layers(self, self.device, "quantize_image_encoder")
        refuse_inference_layers(self, "quantised")
        replace_linear_layers(self.albef.vision_model.layers, QuantizedLinear)
        self.eval()

    def match(
        self,
        states: torch.Tensor,
        layout: PhraseLayout,
        keys_values: list[KeysValues],
        first: int | None = None,
    ) -> torch.Tensor:
        r"""Fuses phrases with images and scores the pairs.

        Args:
            states (`torch.Tensor` of shape `(P, T, hidden_size)`): phrases after the layers below `first`.
            layout ([`~layout_albef.PhraseLayout`]): theirs.
            keys_values (`list`): keys and values of the images, one pair per fusion layer.
            first (`int`, *optional*): layer to begin at; the first fusion layer by default.

        Returns:
            `torch.Tensor` of shape `(P, 2)`: `itm_logits`.
        """
        first = self.config.text_config.fusion_layer if first is None else first
        fused = self.albef.text_model.run_layers(states, layout, keys_values, first=first, first_token_only=True)
        return self.itm_head(fused[:, 0])

    @torch.no_grad()
    def compute_match_probability(self, itm_logits: torch.Tensor) -> torch.Tensor:
        """Probability `(P,)` that phrase and image match, from `itm_logits` `(P, 2)`, calibrated by
        `match_scale` and `match_bias` (Platt, 1999): at least float32, in [0, 1]."""
        calibrated = at_least_float32(itm_logits.detach()) * self.config.match_scale
        calibrated[:, ITM_MATCH_INDEX] += self.config.match_bias
        return calibrated.softmax(dim=-1)[:, ITM_MATCH_INDEX]

    @torch.no_grad()
    def score_phrases(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        layout: PhraseLayout | None = None,
        **unused_inputs,
    ) -> torch.Tensor:
        """Matching scores `itm_logits` `(P, 2)` of P phrases, without heatmaps and without dropout; arguments as for
        [`ground`]."""
        phrases = check_phrase_inputs(pixel_values, input_ids, attention_mask, image_index, layout)
        layout, text_model = phrases.layout.to(pixel_values.device), self.albef.text_model
        with evaluation_mode(self):
            keys_values = text_model.project_image(self.albef.vision_model(pixel_values))
            return self.match(text_model.encode(input_ids, layout), layout, keys_values)

    def explain_match(
        self, states: torch.Tensor, layout: PhraseLayout, keys_values: list[KeysValues], first: int | None = None
    ) -> ExplainedScore:
        """Matching scores as [`match`], with the attention map of the explanation layer and its gradient."""

        def read_match(fused: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            itm_logits = self.itm_head(fused[:, 0])
            return itm_logits, itm_logits[:, ITM_MATCH_INDEX]

        text_model, explained = self.albef.text_model, self.config.explanation_layer
        first = self.config.text_config.fusion_layer if first is None else first
        states = text_model.run_layers(states, layout, keys_values, first=first, last=explained)
        layers = range(explained, explained + 1)
        return text_model.explain_score(states, layout, keys_values, layers, read_match)

    def explain_similarity(
        self, pixel_values: torch.Tensor, text_embeds: torch.Tensor, image_index: torch.Tensor
    ) -> ExplainedScore:
        r"""Contrastive similarities, with the attention map of vision block `explanation_block` and its gradient.

        The rows that enter the block are expanded by `image_index`, so that each phrase has a gradient of its own.
        The first row of the map is that of the class token, which stands for the image.
        """
        refuse_inference_layers(self, 'explained with `explanation_kind="itc"`')
        block, vision_model = self.config.explanation_block, self.albef.vision_model
        keep_graph = torch.is_grad_enabled()
        text_features = self.albef.project_texts(text_embeds)
        states = vision_model.run_layers(vision_model.embed(pixel_values), last=block).index_select(0, image_index)
        with torch.enable_grad():
            states, attention_map = vision_model.run_explained_layer(block, states)
            states = vision_model.run_layers(states, first=block + 1, use_eager=True)
            image_features = self.albef.project_images(vision_model.layer_norm(states))
            similarity = (image_features * text_features).sum(dim=-1) / self.albef.temperature
            gradients = differentiate_score(similarity, [attention_map], keep_graph)
        return ExplainedScore(similarity, similarity, [attention_map], gradients)

    def _explain_phrases(
        self,
        pixel_values: torch.Tensor,
        text_embeds: torch.Tensor,
        token_mask: torch.Tensor,
        layout: PhraseLayout,
        keys_values: list[KeysValues],
        explanation_kind: ExplanationKind,
        denominator: HeatmapDenominator = "kept",
    ) -> tuple[torch.Tensor, Explanation]:
        """Matching scores `(P, 2)` and heatmaps of phrases; for `itc` the only row of an attention map that counts is
        that of the class token."""
        if explanation_kind == "itm":
            explained = self.explain_match(text_embeds, layout, keys_values)
            itm_logits, rows = explained.logits, token_mask
        else:
            itm_logits = self.match(text_embeds, layout, keys_values)
            image_index = layout.image_index.to(pixel_values.device, non_blocking=True)
            explained = self.explain_similarity(pixel_values, text_embeds, image_index)
            rows = torch.ones_like(token_mask[:, :1])
        (attention_map,), (gradient,) = explained.attention_maps, explained.gradients
        grid_size = self.config.vision_config.grid_size
        return itm_logits, explain_attention(attention_map, gradient, rows, grid_size, denominator)

    @outside_inference_mode
    def ground(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        token_mask: torch.Tensor | None = None,
        original_sizes: torch.Tensor | None = None,
        explanation_kind: ExplanationKind = "itm",
        output_token_heatmap: bool = False,
        phrases_per_chunk: int = 32,
        check_finite: bool = True,
        layout: PhraseLayout | None = None,
        **unused_inputs,
    ) -> AlbefGroundingOutput:
        r"""Heatmap and matching score of every phrase, without dropout and without side effects.

        No parameter, `.grad`, mode or hook is changed, under `torch.no_grad()` and `torch.inference_mode()` as well.
        It costs a forward pass, with every image encoded once, and a backward pass from the score to the
        explanation layer. Nothing waits for the device where the processor's `layout` came with the batch, or where
        what describes the phrases stays on the CPU: it is checked and laid out there.

        Args:
            pixel_values, input_ids, attention_mask, image_index, token_mask, original_sizes, explanation_kind,
            output_token_heatmap, layout: as for [`forward`].
            phrases_per_chunk (`int`, defaults to 32): phrases explained at once; bounds the memory. Where there are
                more, those of similar length are explained together.
            check_finite (`bool`, defaults to `True`): check the results. A caller who has more work for the device
                than these phrases passes `False` and calls `check_finite` of the output when it reads them.
            unused_inputs: other outputs of the processor or the collator (regions, identities) are not read.

        Returns:
            [`AlbefGroundingOutput`] for [`AlbefProcessor.post_process_grounding`].

        Raises:
            ValueError: shapes that do not fit, or scores that are not finite (NaN in the checkpoint or the image).
        """
        check_explanation(explanation_kind, output_token_heatmap)
        check_number("phrases_per_chunk", phrases_per_chunk, COUNT)
        with torch.no_grad(), evaluation_mode(self):
            phrases = check_phrase_inputs(pixel_values, input_ids, attention_mask, image_index, layout)
            token_mask = resolve_token_mask(token_mask, phrases.attention_mask)
            keys_values = self.albef.text_model.project_image(self.albef.vision_model(pixel_values))
            chunks, parts = chunk_by_length(phrases.layout.attention_mask, phrases_per_chunk), []
            for rows, length in chunks:
                itm_logits, explanation = self._ground_chunk(
                    pixel_values,
                    select_rows(input_ids, rows)[:, :length],
                    select_rows(token_mask, rows)[:, :length],
                    phrases.select(rows, length),
                    keys_values,
                    explanation_kind,
                )
                token_heatmap = explanation.token_heatmap[:, : length if output_token_heatmap else 0]
                token_heatmap = pad_tokens(token_heatmap, input_ids.shape[1] if output_token_heatmap else 0)
                parts.append((itm_logits, token_heatmap, explanation.heatmap, explanation.normalized_heatmap))
            order = torch.cat([rows for rows, _ in chunks]).argsort()
            joined = [select_rows(torch.cat(values), order) for values in zip(*parts, strict=True)]
        itm_logits, token_heatmap, heatmap, normalized_heatmap = joined
        outputs = AlbefGroundingOutput(
            itm_logits=itm_logits,
            match_probability=self.compute_match_probability(itm_logits),
            heatmap=heatmap,
            normalized_heatmap=normalized_heatmap,
            token_heatmap=token_heatmap if output_token_heatmap else None,
            image_index=phrases.image_index.to(heatmap.device, non_blocking=True),
            original_sizes=original_sizes,
        )
        if check_finite:
            outputs.check_finite()
        return outputs

    def _ground_chunk(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        token_mask: torch.Tensor,
        layout: PhraseLayout,
        keys_values: list[KeysValues],
        explanation_kind: ExplanationKind,
    ) -> tuple[torch.Tensor, Explanation]:
        """Matching scores `(R, 2)` and heatmaps of some phrases, whose tensors may be on the CPU."""
        device = pixel_values.device
        layout = layout.to(device)
        text_embeds = self.albef.text_model.encode(input_ids.to(device, non_blocking=True), layout)
        token_mask = token_mask.to(device, non_blocking=True)
        return self._explain_phrases(pixel_values, text_embeds, token_mask, layout, keys_values, explanation_kind)

    @torch.no_grad()
    def encode_images(
        self, batches: Batch | Iterable[Batch], storage_device: torch.device | str | None = None
    ) -> EncodedImages:
        r"""Encodes the images of a gallery, once for all queries; dropout is off.

        Args:
            batches (`Mapping` or iterable of them): `pixel_values` `(n, 3, image_height, image_width)` of each
                batch, as the processor returns them; the pixels of one batch are held at a time.
            storage_device (`torch.device` or `str`, *optional*): where the states wait for [`retrieve`]; `"cpu"` for a
                gallery larger than the GPU's memory. The model's device by default.

        Raises:
            ValueError: there is no image, or its size is not the model's.
        """
        embeds, features = [], []
        with evaluation_mode(self):
            for batch in iterate_batches(batches):
                pixel_values = get_tensor(batch, "pixel_values")
                if len(pixel_values) == 0:
                    continue
                states = self.albef.vision_model(pixel_values.to(self.device))
                features.append(at_least_float32(self.albef.project_images(states)))
                embeds.append(states.to(storage_device or self.device))
        if not features:
            raise ValueError("the gallery has no image: give at least one batch (an iterator gives its batches once).")
        return EncodedImages(embeds, torch.cat(features))

    @torch.no_grad()
    def encode_texts(
        self, batches: Batch | Iterable[Batch], storage_device: torch.device | str | None = None
    ) -> EncodedTexts:
        r"""Encodes the texts of a gallery, once for all queries; dropout is off.

        Args:
            batches (`Mapping` or iterable of them): `input_ids` and `attention_mask` (all ones without) `(n, T)` of
                each batch, as the processor returns them; T may differ between batches.
            storage_device (`torch.device` or `str`, *optional*): as for [`encode_images`].

        Raises:
            ValueError: there is no text, or one without a token.
        """
        tokens, lengths, features = [], [], []
        with evaluation_mode(self):
            for batch in iterate_batches(batches):
                input_ids, mask = get_tensor(batch, "input_ids"), batch.get("attention_mask")
                is_real = check_tokens(input_ids, mask).to(self.device) != 0
                length = int(is_real.any(dim=0).nonzero().max()) + 1
                is_real = is_real[:, :length]
                layout = build_layout(is_real.long(), None, len(is_real))
                states = self.albef.text_model.encode(input_ids[:, :length].to(self.device), layout)
                features.append(at_least_float32(self.albef.project_texts(states)))
                tokens.append(states[is_real].to(storage_device or self.device))
                lengths.append(is_real.sum(dim=1).to(storage_device or self.device))
        if not features:
            raise ValueError("the gallery has no text: give at least one batch (an iterator gives its batches once).")
        return EncodedTexts(torch.cat(tokens), torch.cat(lengths), torch.cat(features))

    @torch.no_grad()
    def retrieve(
        self, images: EncodedImages, texts: EncodedTexts, k: int, pairs_per_chunk: int = 256
    ) -> AlbefRetrievalScores:
        r"""Ranks texts for every image and images for every text.

        The k candidates of largest contrastive similarity are each query's shortlist; among equal ones the first
        come first. A pair that is in a shortlist is fused once, whether its image or its text asked for it, or both;
        keys and values are projected once per image. Dropout is off.

        Args:
            images ([`EncodedImages`]), texts ([`EncodedTexts`]): the gallery, encoded by this model.
            k (`int`): length of a shortlist; a gallery with fewer candidates is scored completely.
            pairs_per_chunk (`int`, defaults to 256): pairs fused at once; bounds the memory.

        Raises:
            ValueError: `k` or `pairs_per_chunk` below 1, a gallery of another model, or scores that are not finite.
        """
        check_galleries(self, images, texts, k, pairs_per_chunk)
        similarities = images.features.to(self.device) @ texts.features.to(self.device).T
        check_features("similarities", similarities)
        of_images = list_best(similarities, k)  # (N, P)
        of_texts = list_best(similarities.T, k)  # (P, N)
        scores = torch.full_like(similarities, NOT_LISTED)
        image_rows, text_rows = (of_images | of_texts.T).nonzero().T.contiguous()
        with evaluation_mode(self):
            scores[image_rows, text_rows] = self._score_pairs(images, texts, image_rows, text_rows, pairs_per_chunk)
        check_features("matching scores", scores)
        return AlbefRetrievalScores(
            similarities=similarities,
            scores_per_image=scores.masked_fill(~of_images, NOT_LISTED),
            scores_per_text=scores.T.masked_fill(~of_texts, NOT_LISTED),
            ranked_texts=rank_listed(scores, of_images),
            ranked_images=rank_listed(scores.T, of_texts),
        )

    def _score_pairs(
        self,
        images: EncodedImages,
        texts: EncodedTexts,
        image_rows: torch.Tensor,
        text_rows: torch.Tensor,
        pairs_per_chunk: int,
    ) -> torch.Tensor:
        """Matching scores of pairs in the order of images: block after block of images, within a block pairs whose
        texts are of similar length together."""
        scores = texts.features.new_empty(len(image_rows), device=self.device)
        first = 0
        for block in images.iterate_blocks():
            keys_values = self.albef.text_model.project_image(block.to(self.device))
            bounds = torch.tensor([first, first + len(block)], device=self.device)
            begin, end = torch.searchsorted(image_rows, bounds).tolist()
            own_images, own_texts = image_rows[begin:end] - first, text_rows[begin:end].to(texts.lengths.device)
            lengths = texts.lengths[own_texts]
            mask = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
            for rows, _ in chunk_by_length(mask, pairs_per_chunk):
                states, attention_mask = (part.to(self.device) for part in texts.read(own_texts[rows]))
                rows = rows.to(self.device)
                layout = build_layout(attention_mask, own_images[rows], len(block))
                itm_logits = self.match(states, layout, keys_values)
                scores[begin + rows] = itm_logits[:, ITM_MATCH_INDEX].to(scores.dtype)
            first += len(block)
        return scores


class AlbefForImageTextMatching(AlbefMatchingModel):
    r"""ALBEF that scores whether a phrase matches an image, and shows where: the class for grounding.

    `forward` with `output_heatmap=True` adds the Grad-CAM heatmap of the score, differentiable when gradients are
    enabled. [`ground`] is the call for using a trained model. The pipeline `zero-shot-object-detection` of
    `transformers` works, too: it calls `forward` and [`AlbefImageProcessor.post_process_object_detection`].
    """

    task = "matching and grounding"
    auto_class = AutoModelForZeroShotObjectDetection
    is_general = True
    optional_weights = ("itm_head.",)
    _keys_to_ignore_on_load_unexpected = [r"^momentum_", r"_queue", r"^mlm_head\."]

    def __init__(self, config: AlbefConfig):
        super().__init__(config)
        self.post_init()

    @can_return_tuple
    @outside_inference_mode
    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        token_mask: torch.Tensor | None = None,
        original_sizes: torch.Tensor | None = None,
        itm_labels: torch.Tensor | None = None,
        output_heatmap: bool | None = None,
        output_token_heatmap: bool = False,
        explanation_kind: ExplanationKind = "itm",
        heatmap_denominator: HeatmapDenominator = "kept",
        layout: PhraseLayout | None = None,
    ) -> AlbefGroundingOutput:
        r"""Scores P phrases against their images; every image is encoded once.

        Args:
            pixel_values (`torch.Tensor` of shape `(N, 3, image_height, image_width)`): normalised images.
            input_ids, attention_mask (`torch.Tensor` of shape `(P, T)`): tokens, and 1 for real ones.
            image_index (`torch.Tensor` of shape `(P,)`, *optional*): image row of each phrase; not needed if P = N.
            token_mask (`torch.Tensor` of shape `(P, T)`, *optional*): 1 for the tokens whose maps are averaged, to
                explain a phrase inside its caption; every real token by default.
            original_sizes (`torch.Tensor` of shape `(N, 2)`, *optional*): passed through to the output.
            itm_labels (`torch.Tensor` of shape `(P,)`, *optional*): 1 where phrase and image match, else 0.
            output_heatmap (`bool`, *optional*): compute the explanation of every phrase. By default it is computed
                where the output can only be meant for post-processing, as pipelines of `transformers` call a detector:
                with `original_sizes`, without `itm_labels`, in evaluation mode, and without gradients. Pipelines then
                take batches apart row by row, so the output has an `image_index` only if one was given.
            output_token_heatmap (`bool`): compute the explanation of every token, too.
            explanation_kind (`str`, defaults to `"itm"`): `"itm"` explains the matching score at the cross-attention
                of `explanation_layer`, `"itc"` the contrastive similarity at vision block `explanation_block`.
            heatmap_denominator (`str`, defaults to `"kept"`): see
                [`~explanation_albef.explain_attention`].
            layout ([`~layout_albef.PhraseLayout`], *optional*): what the processor or the collator computed of
                `attention_mask` and `image_index`; built here where it is missing.
        """
        check_explanation(explanation_kind, output_token_heatmap)
        check_choice("heatmap_denominator", heatmap_denominator, get_args(HeatmapDenominator))
        is_for_pipeline = output_heatmap is None and not (
            torch.is_grad_enabled() or self.training or original_sizes is None or itm_labels is not None
        )
        phrases = check_phrase_inputs(pixel_values, input_ids, attention_mask, image_index, layout)
        if is_for_pipeline and (phrases.layout.attention_mask.sum(dim=1) < 2).any():
            raise ValueError("a label has no words, so that it would be found anywhere. Drop empty labels.")
        token_mask = resolve_token_mask(token_mask, phrases.attention_mask)
        layout = phrases.layout.to(pixel_values.device)

        image_embeds = self.albef.vision_model(pixel_values)
        text_embeds = self.albef.text_model.encode(input_ids, layout)
        keys_values = self.albef.text_model.project_image(image_embeds)
        output = AlbefGroundingOutput(original_sizes=original_sizes)
        output.image_index = phrases.image_index if image_index is not None or not is_for_pipeline else None
        if output_heatmap or output_token_heatmap or is_for_pipeline:
            output.itm_logits, explanation = self._explain_phrases(
                pixel_values, text_embeds, token_mask, layout, keys_values, explanation_kind, heatmap_denominator
            )
            output.heatmap, output.normalized_heatmap = explanation.heatmap, explanation.normalized_heatmap
            output.token_heatmap = explanation.token_heatmap if output_token_heatmap else None
        else:
            output.itm_logits = self.match(text_embeds, layout, keys_values)
        if itm_labels is not None:
            output.loss = nn.functional.cross_entropy(at_least_float32(output.itm_logits), itm_labels)
        output.match_probability = self.compute_match_probability(output.itm_logits)
        return output


__all__ = ["AlbefForImageTextMatching", "AlbefMatchingModel"]
