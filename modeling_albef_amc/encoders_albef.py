# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The two encoders of ALBEF, layer by layer: a vision transformer, and BERT whose upper layers attend to the image.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651), section 3.1.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import ClassVar

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_albef import VISION_ACTIVATIONS, AlbefTextConfig, AlbefVisionConfig
from .explanation_albef import ExplainedScore, ReadScore, differentiate_score
from .layout_albef import PhraseLayout, build_layout
from .pretrained_albef import AlbefPreTrainedModel, resize_position_embeddings

KeysValues = tuple[torch.Tensor, torch.Tensor]

# Attention kernels that need no plan for a new shape.
KERNELS_WITHOUT_PLANS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    explain: bool = False,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention that returns its probabilities BEFORE dropout and can be differentiated twice.

    Args and returns have the layout of `transformers`' attention functions: `query`, `key`, `value` are
    `(batch, num_heads, length, head_dim)`, the context is `(batch, length, num_heads, head_dim)`. With `explain`
    the probabilities require a gradient: where nothing below them does, they become a leaf of the graph.
    """
    probabilities = _attention_probabilities(query, key, scaling, attention_mask)
    if explain:
        probabilities = _as_graph_node(probabilities)
    dropped = nn.functional.dropout(probabilities, p=dropout, training=module.training)
    return torch.matmul(dropped, value).transpose(1, 2), probabilities


def _attention_probabilities(
    query: torch.Tensor, key: torch.Tensor, scaling: float, attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    scores = torch.matmul(query * scaling, key.transpose(-1, -2))
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + attention_mask
    return scores.softmax(dim=-1)


def _as_graph_node(probabilities: torch.Tensor) -> torch.Tensor:
    return probabilities if probabilities.requires_grad else probabilities.detach().requires_grad_(True)


def call_uncompiled(module: nn.Module) -> Callable:
    """The module's call, hooks included, without what `nn.Module.compile` put before it."""
    return module._call_impl


def plans_by_shape(device: torch.device) -> bool:
    """Whether torch may choose cuDNN's attention, which builds a plan for every new shape; that takes longer than a
    training step."""
    return device.type == "cuda"


class AlbefAttention(nn.Module):
    """What the three attention modules share: the geometry of the heads and the choice of the back-end.

    Attributes:
        has_varying_shapes (`bool`): whether the shapes change from batch to batch, as those of phrases do.
    """

    has_varying_shapes: ClassVar[bool] = False

    def __init__(self, config: AlbefVisionConfig | AlbefTextConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False

    def split_heads(self, projected: torch.Tensor) -> torch.Tensor:
        """`(batch, length, hidden_size)` to `(batch, num_heads, length, head_dim)`."""
        return projected.view(*projected.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    @property
    def dropout(self) -> float:
        """Dropout on the attention probabilities, 0 in evaluation."""
        return self.config.attention_probs_dropout_prob if self.training else 0.0

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        use_eager: bool,
        explain: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Context `(batch, length, num_heads, head_dim)` and, from the eager back-end, the probabilities."""
        attention: Callable = eager_attention_forward
        if not use_eager:
            attention = ALL_ATTENTION_FUNCTIONS.get_interface(
                self.config._attn_implementation, eager_attention_forward
            )
        avoids_plans = self.has_varying_shapes and plans_by_shape(query.device)
        with sdpa_kernel(KERNELS_WITHOUT_PLANS) if avoids_plans else nullcontext():
            return attention(
                self, query, key, value, attention_mask, scaling=self.scaling, dropout=self.dropout, explain=explain
            )


class AlbefVisionAttention(AlbefAttention):
    """Self-attention of the image encoder with fused query, key and value projections."""

    def __init__(self, config: AlbefVisionConfig):
        super().__init__(config)
        self.is_class_token_read = config.is_class_token_read
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, use_eager: bool, explain: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """States `(batch, length, hidden_size)` and, from the eager back-end, the probabilities: of all tokens, or of
        the class token alone if no other token reads it."""
        batch, length, _ = hidden_states.shape
        qkv = self.qkv(hidden_states).view(batch, length, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (batch, num_heads, length, head_dim)
        if self.is_class_token_read:
            context, probabilities = self.attend(query, key, value, None, use_eager, explain)
        else:
            of_class, probabilities = self.attend(query[:, :, :1], key, value, None, use_eager, explain)
            of_others, _ = self.attend(query[:, :, 1:], key[:, :, 1:], value[:, :, 1:], None, use_eager)
            context = torch.cat([of_class, of_others], dim=1)
        return self.out_proj(context.reshape(batch, length, -1)), probabilities


class AlbefVisionLayer(GradientCheckpointingLayer):
    """Pre-norm transformer block of the image encoder."""

    def __init__(self, config: AlbefVisionConfig):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = AlbefVisionAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.approximation = VISION_ACTIVATIONS[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, hidden_states: torch.Tensor, use_eager: bool = False, explain: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attended, probabilities = self.attention(self.layer_norm1(hidden_states), use_eager, explain)
        hidden_states = hidden_states + self.dropout(attended)
        expanded = nn.functional.gelu(self.fc1(self.layer_norm2(hidden_states)), approximate=self.approximation)
        return hidden_states + self.dropout(self.fc2(self.dropout(expanded))), probabilities


class AlbefTextSelfAttention(AlbefAttention):
    """Self-attention among the tokens of a phrase."""

    has_varying_shapes = True

    def __init__(self, config: AlbefTextConfig):
        super().__init__(config)
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        layout: PhraseLayout,
        use_eager: bool = False,
        first_token_only: bool = False,
    ) -> torch.Tensor:
        """States `(num_tokens, hidden_size)`, of the first tokens alone `(P, hidden_size)`."""
        key = self.split_heads(layout.unpack(self.k_proj(hidden_states)))
        value = self.split_heads(layout.unpack(self.v_proj(hidden_states)))
        if first_token_only:
            hidden_states, layout = layout.unpack(hidden_states)[:, 0], layout.first_tokens()
            if attention_mask is not None and attention_mask.ndim == 4:
                attention_mask = attention_mask[:, :, :1]
        query = self.split_heads(layout.unpack(self.q_proj(hidden_states)))
        context, _ = self.attend(query, key, value, attention_mask, use_eager)
        return self.out_proj(layout.pack(context.flatten(2)))


class AlbefTextCrossAttention(AlbefAttention):
    """Cross-attention from the tokens of a phrase to the patches of its image.

    Keys and values depend on the image alone: `project_image` computes them once per image, `forward` reads them.
    """

    has_varying_shapes = True

    def __init__(self, config: AlbefTextConfig):
        super().__init__(config)
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.encoder_width, config.hidden_size)
        self.v_proj = nn.Linear(config.encoder_width, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def project_image(self, image_embeds: torch.Tensor) -> KeysValues:
        """Keys and values, each `(N, num_heads, 1 + num_patches, head_dim)`."""
        return self.split_heads(self.k_proj(image_embeds)), self.split_heads(self.v_proj(image_embeds))

    def forward(
        self,
        hidden_states: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        layout: PhraseLayout,
        image_of_phrase: int = 0,
        use_eager: bool = False,
        explain: bool = False,
        key_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """States `(num_tokens, hidden_size)`. Keys and values have one row per image that the layout reads for image
        number `image_of_phrase` of the phrases, which its phrases read together; `key_mask` `(M, 1, 1, keys)` is
        False for keys that are not read.

        With `explain`, the attention map `(P, num_heads, T, 1 + num_patches)` is returned as a node of the graph.
        """
        grouping = layout.groupings[image_of_phrase]
        query = self.split_heads(grouping.to_grid(layout.unpack(self.q_proj(hidden_states))).flatten(1, 2))
        attention_map = None
        if explain:
            grid = _attention_probabilities(query, key, self.scaling, key_mask)  # (M, num_heads, m x T, keys)
            rows = grid.unflatten(2, (grouping.width, -1)).transpose(1, 2)
            attention_map = _as_graph_node(grouping.from_grid(rows))  # every phrase has its own row
            weights = grouping.to_grid(attention_map).transpose(1, 2).flatten(2, 3)
            weights = nn.functional.dropout(weights, p=self.dropout, training=self.training)
            context = torch.matmul(weights, value).transpose(1, 2)
        else:
            context, _ = self.attend(query, key, value, key_mask, use_eager)
        context = grouping.from_grid(context.flatten(2).unflatten(1, (grouping.width, -1)))
        return self.out_proj(layout.pack(context)), attention_map


class AlbefTextLayer(GradientCheckpointingLayer):
    """Post-norm BERT layer; from `fusion_layer` upwards with cross-attention to the image."""

    def __init__(self, config: AlbefTextConfig, layer_index: int):
        super().__init__()
        self.attention = AlbefTextSelfAttention(config)
        self.attention_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.cross_attention = None
        if layer_index >= config.fusion_layer:
            self.cross_attention = AlbefTextCrossAttention(config)
            self.cross_attention_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: torch.Tensor,
        layout: PhraseLayout,
        attention_mask: torch.Tensor | None = None,
        key: torch.Tensor | None = None,
        value: torch.Tensor | None = None,
        image_of_phrase: int = 0,
        use_eager: bool = False,
        explain: bool = False,
        first_token_only: bool = False,
        key_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attended = self.dropout(self.attention(hidden_states, attention_mask, layout, use_eager, first_token_only))
        if first_token_only:
            hidden_states, layout = layout.unpack(hidden_states)[:, 0], layout.first_tokens()
        hidden_states = self.attention_layer_norm(hidden_states + attended)
        attention_map = None
        if self.cross_attention is not None:
            attended, attention_map = self.cross_attention(
                hidden_states, key, value, layout, image_of_phrase, use_eager, explain, key_mask
            )
            hidden_states = self.cross_attention_layer_norm(hidden_states + self.dropout(attended))
        expanded = self.dropout(self.fc2(nn.functional.gelu(self.fc1(hidden_states))))
        return self.output_layer_norm(hidden_states + expanded), attention_map


class AlbefVisionModel(AlbefPreTrainedModel):
    """Image encoder: a vision transformer over a class token and patches."""

    config: AlbefVisionConfig
    input_modalities = ("image",)

    def __init__(self, config: AlbefVisionConfig):
        super().__init__(config)
        grid_height, grid_width = config.grid_size
        self.patch_embedding = nn.Conv2d(
            config.num_channels,
            config.hidden_size,
            kernel_size=config.patch_height_width,
            stride=config.patch_height_width,
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.register_tokens = None
        if config.num_register_tokens:
            self.register_tokens = nn.Parameter(torch.zeros(1, config.num_register_tokens, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + grid_height * grid_width, config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList([AlbefVisionLayer(config) for _ in range(config.num_hidden_layers)])
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.trunc_normal_(self.cls_token, std=self.config.initializer_range)
            if self.register_tokens is not None:
                init.trunc_normal_(self.register_tokens, std=self.config.initializer_range)
            init.trunc_normal_(self.position_embeddings, std=self.config.initializer_range)

    @torch.no_grad()
    def resize_position_embeddings(self, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> None:
        """Resizes the table of positions; [`AlbefPreTrainedModel.resize_image`] also changes the configuration."""
        resized = resize_position_embeddings(self.position_embeddings, old_grid, new_grid)
        self.position_embeddings = nn.Parameter(resized, requires_grad=self.position_embeddings.requires_grad)

    def embed(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Class token, registers and patches: `(N, 1 + num_register_tokens + num_patches, hidden_size)`.

        Registers have no position.
        """
        height, width = self.config.image_height_width
        expected = (self.config.num_channels, height, width)
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != expected:
            raise ValueError(
                f"`pixel_values` must have shape (N, {', '.join(map(str, expected))}), got "
                f"{tuple(pixel_values.shape)}. Give the processor the model's image size, or load the model with "
                f"`from_pretrained(..., image_size=...)`."
            )
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        tokens = tokens + self.position_embeddings
        if self.register_tokens is not None:
            registers = self.register_tokens.expand(len(patches), -1, -1)
            tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)
        return self.dropout(tokens)

    def run_layers(
        self, hidden_states: torch.Tensor, first: int = 0, last: int | None = None, use_eager: bool = False
    ) -> torch.Tensor:
        """Runs blocks `first` to `last - 1`, without the final normalisation; with `use_eager` so that they can be
        differentiated twice."""
        for layer in self.layers[first:last]:
            run = call_uncompiled(layer) if use_eager else layer
            hidden_states, _ = run(hidden_states, use_eager=use_eager)
        return hidden_states

    def run_explained_layer(self, index: int, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs one block; returns the states and its probabilities as a node of the graph (a leaf if none exists)."""
        return call_uncompiled(self.layers[index])(hidden_states, use_eager=True, explain=True)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`(N, 3, image_height, image_width)` to image_embeds `(N, 1 + num_patches, hidden_size)`."""
        states = self.run_layers(self.embed(pixel_values))
        if self.register_tokens is not None:
            states = torch.cat([states[:, :1], states[:, 1 + self.config.num_register_tokens :]], dim=1)
        return self.layer_norm(states)


class AlbefTextStack(AlbefPreTrainedModel):
    """Embeddings of tokens and the layers above them; a subclass runs the layers and ends with `post_init`."""

    config: AlbefTextConfig
    main_input_name = "input_ids"
    input_modalities = ("text",)

    def __init__(self, config: AlbefTextConfig):
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.embedding_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList([AlbefTextLayer(config, index) for index in range(config.num_hidden_layers)])

    def get_input_embeddings(self) -> nn.Module:
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.word_embeddings = value

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Tokens with positions: `(P, T)` to `(P, T, hidden_size)`."""
        length, limit = input_ids.shape[1], self.config.max_position_embeddings
        if length > limit:
            raise ValueError(
                f"`input_ids` has {length} tokens per phrase but the position table ends at {limit}. Shorten the "
                f"phrase, or pass `max_length={limit}` to the processor to cut it."
            )
        embeds = self.word_embeddings(input_ids) + self.position_embeddings.weight[:length]
        return self.dropout(self.embedding_layer_norm(embeds + self.token_type_embeddings.weight[0]))


class AlbefTextModel(AlbefTextStack):
    """Text encoder (layers below `fusion_layer`) and fusion encoder (the layers above) in one stack.

    Where a text has several images, the fusion layers come in groups with one layer per image, which share the weights
    that project images to keys and values.
    """

    def __init__(self, config: AlbefTextConfig):
        super().__init__(config)
        self._tied_weights_keys = self._name_shared_projections()
        self.post_init()

    def _name_shared_projections(self) -> dict[str, str]:
        """Weights that project images in the further layers of a group, and which of its first layer they are."""
        shared = {}
        for index in range(self.config.fusion_layer, self.config.num_hidden_layers):
            first = self.find_group(index)[0]
            if index != first:
                for name in ("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias"):
                    shared[f"layers.{index}.cross_attention.{name}"] = f"layers.{first}.cross_attention.{name}"
        return shared

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Names of shared weights; they are shared whether or not a head is tied to the word embeddings."""
        return dict(self._tied_weights_keys)

    def find_group(self, index: int) -> range:
        """The fusion layers that belong together with layer `index`: one for each image of a text."""
        step = self.config.images_per_text
        first = index - (index - self.config.fusion_layer) % step
        return range(first, first + step)

    def project_image(self, image_embeds: torch.Tensor) -> list[KeysValues]:
        """Keys and values of every fusion layer, once per image and group (see [`AlbefTextCrossAttention`])."""
        step = self.config.images_per_text
        first_layers = self.layers[self.config.fusion_layer :: step]
        projected = [layer.cross_attention.project_image(image_embeds) for layer in first_layers]
        return [pair for pair in projected for _ in range(step)]

    def encode(self, input_ids: torch.Tensor, layout: PhraseLayout) -> torch.Tensor:
        """Text encoder alone: `(P, T)` to text_embeds `(P, T, hidden_size)`."""
        return self.run_layers(self.embed(input_ids), layout, last=self.config.fusion_layer)

    def run_layers(
        self,
        hidden_states: torch.Tensor,
        layout: PhraseLayout,
        keys_values: list[KeysValues] | None = None,
        first: int = 0,
        last: int | None = None,
        first_token_only: bool = False,
        use_eager: bool = False,
    ) -> torch.Tensor:
        r"""Runs layers `first` to `last - 1` on phrases.

        Args:
            hidden_states (`torch.Tensor` of shape `(P, T, hidden_size)`): states of their tokens.
            layout ([`~layout_albef.PhraseLayout`]): which tokens are real, and the images of the phrases; the fusion
                layers read the images of a phrase in turn.
            keys_values (`list`, *optional*): keys and values of the images, one pair per fusion layer.
            first_token_only (`bool`): the last of these layers computes the first token alone.
            use_eager (`bool`): attention that can be differentiated twice, which the layers above an explained one
                need; the configured one otherwise.

        Returns:
            `torch.Tensor`: states `(P, T, hidden_size)`, 0 for padding unless the layout keeps it; of the first
            token, `(P, 1, hidden_size)`, with `first_token_only`.
        """
        last = len(self.layers) if last is None else last
        if first >= last or len(hidden_states) == 0:
            return hidden_states[:, :1] if first_token_only else hidden_states
        packed = layout.pack(hidden_states)
        mask = self._make_mask(packed, layout, use_eager)
        for index in range(first, last):
            packed, _ = self._run_layer(
                index,
                packed,
                layout,
                mask,
                keys_values,
                use_eager=use_eager,
                first_token_only=first_token_only and index == last - 1,
            )
        return packed[:, None] if first_token_only else layout.unpack(packed)

    def run_explained_layer(
        self,
        index: int,
        hidden_states: torch.Tensor,
        layout: PhraseLayout,
        keys_values: list[KeysValues],
        use_eager: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs one fusion layer, as [`run_layers`]; returns the states and its attention map
        `(P, num_heads, T, 1 + num_patches)` as a node of the graph (a leaf if none exists).

        Its self-attention comes before what is explained: it needs `use_eager` where a lower layer is explained too.
        """
        packed = layout.pack(hidden_states)
        mask = self._make_mask(packed, layout, use_eager)
        packed, attention_map = self._run_layer(
            index, packed, layout, mask, keys_values, use_eager=use_eager, explain=True
        )
        return layout.unpack(packed), attention_map

    def explain_score(
        self,
        states: torch.Tensor,
        layout: PhraseLayout,
        keys_values: list[KeysValues],
        layers: range,
        read_score: ReadScore,
        first_token_only: bool = True,
    ) -> ExplainedScore:
        r"""A head's score and its gradient at the cross-attention of neighbouring layers, one per image of a phrase.

        With gradients enabled, everything stays in the graph. Without, the graph begins at the first attention map,
        ends at the score, and is freed.

        Args:
            states (`torch.Tensor` of shape `(P, T, hidden_size)`): phrases after the layers below the first of
                `layers`.
            layout, keys_values: as for [`run_layers`].
            layers (`range`): the explained layers.
            read_score (`Callable`): the head, from fused states to its logits and the score of each phrase.
            first_token_only (`bool`): the head reads first tokens alone.
        """
        keep_graph, attention_maps = torch.is_grad_enabled(), []
        with torch.enable_grad():
            for index in layers:
                use_eager = index > layers[0]
                states, attention_map = self.run_explained_layer(index, states, layout, keys_values, use_eager)
                attention_maps.append(attention_map)
            first = layers[-1] + 1
            fused = self.run_layers(
                states, layout, keys_values, first=first, first_token_only=first_token_only, use_eager=True
            )
            logits, score = read_score(fused)
            gradients = differentiate_score(score, attention_maps, keep_graph)
        if not keep_graph:
            logits, score = logits.detach(), score.detach()
        return ExplainedScore(logits, score, attention_maps, gradients)

    def _run_layer(
        self,
        index: int,
        packed: torch.Tensor,
        layout: PhraseLayout,
        mask: torch.Tensor | None,
        keys_values: list[KeysValues] | None,
        use_eager: bool,
        explain: bool = False,
        first_token_only: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        layer, key, value, image_of_phrase = self.layers[index], None, None, 0
        if layer.cross_attention is not None:
            number = index - self.config.fusion_layer
            image_of_phrase = number % len(layout.groupings)
            key, value = map(layout.groupings[image_of_phrase].select_images, keys_values[number])
        return layer(
            packed,
            layout,
            mask,
            key,
            value,
            image_of_phrase,
            use_eager=use_eager,
            explain=explain,
            first_token_only=first_token_only,
        )

    def _make_mask(self, packed: torch.Tensor, layout: PhraseLayout, use_eager: bool) -> torch.Tensor | None:
        """Mask of the self-attention on the device of `packed`, made where `layout` has its attention mask."""
        attention_mask = layout.attention_mask
        if use_eager:
            return attention_mask[:, None, None, :].bool().to(packed.device, non_blocking=True)
        state = packed.new_empty((), device=attention_mask.device)
        embeds = state.expand(*layout.shape, packed.shape[-1])  # read for shape, type and device alone
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=embeds, attention_mask=attention_mask)
        return None if mask is None else mask.to(packed.device, non_blocking=True)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`(P, T)` to states `(P, T, hidden_size)`, padding included: of all layers with `image_embeds`, else of the
        text layers."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        num_images = len(input_ids) if image_embeds is None else len(image_embeds)
        layout = build_layout(attention_mask, image_index, num_images, keep_padding=True)
        text_embeds = self.encode(input_ids, layout)
        if image_embeds is None:
            return text_embeds
        keys_values = self.project_image(image_embeds)
        return self.run_layers(text_embeds, layout, keys_values, first=self.config.fusion_layer)


__all__ = [
    "AlbefPreTrainedModel",
    "AlbefTextModel",
    "AlbefTextStack",
    "AlbefVisionModel",
    "KeysValues",
    "eager_attention_forward",
    "resize_position_embeddings",
]
