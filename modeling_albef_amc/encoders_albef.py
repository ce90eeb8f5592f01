# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The two encoders of ALBEF, layer by layer: a vision transformer, and BERT whose upper layers attend to the image.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651), section 3.1.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_albef import AlbefTextConfig, AlbefVisionConfig
from .grouping_albef import ImageIndex, PhraseGroups, PieceLayout
from .pretrained_albef import AlbefPreTrainedModel, resize_position_embeddings

KeysValues = tuple[torch.Tensor, torch.Tensor]


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
    """The module's call, hooks included, without what `nn.Module.compile` put in front of it."""
    return module._call_impl


class AlbefAttention(nn.Module):
    """What the three attention modules share: the geometry of the heads and the choice of the back-end."""

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
        options = {"scaling": self.scaling, "dropout": self.dropout, "explain": explain}
        return attention(self, query, key, value, attention_mask, **options)


class AlbefVisionAttention(AlbefAttention):
    """Self-attention of the image encoder with fused query, key and value projections."""

    def __init__(self, config: AlbefVisionConfig):
        super().__init__(config)
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, use_eager: bool, explain: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        batch, length, _ = hidden_states.shape
        qkv = self.qkv(hidden_states).view(batch, length, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (batch, num_heads, length, head_dim)
        context, probabilities = self.attend(query, key, value, None, use_eager, explain)
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
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, hidden_states: torch.Tensor, use_eager: bool = False, explain: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attended, probabilities = self.attention(self.layer_norm1(hidden_states), use_eager, explain)
        hidden_states = hidden_states + self.dropout(attended)
        expanded = self.dropout(nn.functional.gelu(self.fc1(self.layer_norm2(hidden_states))))
        return hidden_states + self.dropout(self.fc2(expanded)), probabilities


class AlbefTextSelfAttention(AlbefAttention):
    """Self-attention among the pieces of a phrase."""

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
        pieces: PieceLayout,
        use_eager: bool = False,
        first_piece_only: bool = False,
    ) -> torch.Tensor:
        """States `(num_pieces, hidden_size)`, of the first pieces alone `(P, hidden_size)`."""
        key = self.split_heads(pieces.unpack(self.k_proj(hidden_states)))
        value = self.split_heads(pieces.unpack(self.v_proj(hidden_states)))
        if first_piece_only:
            hidden_states, pieces = pieces.unpack(hidden_states)[:, 0], pieces.first_pieces()
            if attention_mask is not None and attention_mask.ndim == 4:
                attention_mask = attention_mask[:, :, :1]
        query = self.split_heads(pieces.unpack(self.q_proj(hidden_states)))
        context, _ = self.attend(query, key, value, attention_mask, use_eager)
        return self.out_proj(pieces.pack(context.flatten(2)))


class AlbefTextCrossAttention(AlbefAttention):
    """Attention from the pieces of a phrase to the tokens of its image.

    Keys and values depend on the image alone: `project_image` computes them once an image, `forward` reads them.
    """

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
        groups: PhraseGroups,
        pieces: PieceLayout,
        use_eager: bool = False,
        explain: bool = False,
        key_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """States `(num_pieces, hidden_size)`. Keys and values have one row an image of `groups`, which the phrases of
        the image read together; `key_mask` `(M, 1, 1, keys)` is False for keys that nobody reads.

        With `explain`, the probabilities `(P, num_heads, T, 1 + num_patches)` are returned as a node of the graph.
        """
        query = self.split_heads(groups.spread(pieces.unpack(self.q_proj(hidden_states))).flatten(1, 2))
        probabilities = None
        if explain:
            # on the grid: (M, num_heads, m x T, 1 + num_patches)
            on_grid = _attention_probabilities(query, key, self.scaling, key_mask)
            of_rows = on_grid.unflatten(2, (groups.width, -1)).transpose(1, 2)
            probabilities = _as_graph_node(groups.collect(of_rows))  # every phrase has its own row
            weights = groups.spread(probabilities).transpose(1, 2).flatten(2, 3)
            weights = nn.functional.dropout(weights, p=self.dropout, training=self.training)
            context = torch.matmul(weights, value).transpose(1, 2)
        else:
            context, _ = self.attend(query, key, value, key_mask, use_eager)
        context = groups.collect(context.flatten(2).unflatten(1, (groups.width, -1)))
        return self.out_proj(pieces.pack(context)), probabilities


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
        pieces: PieceLayout,
        attention_mask: torch.Tensor | None = None,
        key: torch.Tensor | None = None,
        value: torch.Tensor | None = None,
        groups: PhraseGroups | None = None,
        use_eager: bool = False,
        explain: bool = False,
        first_piece_only: bool = False,
        key_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attended = self.dropout(self.attention(hidden_states, attention_mask, pieces, use_eager, first_piece_only))
        if first_piece_only:
            hidden_states, pieces = pieces.unpack(hidden_states)[:, 0], pieces.first_pieces()
        hidden_states = self.attention_layer_norm(hidden_states + attended)
        probabilities = None
        if self.cross_attention is not None:
            attended, probabilities = self.cross_attention(
                hidden_states, key, value, groups, pieces, use_eager, explain, key_mask
            )
            hidden_states = self.cross_attention_layer_norm(hidden_states + self.dropout(attended))
        expanded = self.dropout(self.fc2(nn.functional.gelu(self.fc1(hidden_states))))
        return self.output_layer_norm(hidden_states + expanded), probabilities


class AlbefVisionModel(AlbefPreTrainedModel):
    """Image encoder: a vision transformer over patches with a class token in front."""

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
            init.trunc_normal_(self.position_embeddings, std=self.config.initializer_range)

    @torch.no_grad()
    def resize_position_embeddings(self, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> None:
        """Resizes the table of positions; [`AlbefPreTrainedModel.resize_image`] also changes the configuration."""
        resized = resize_position_embeddings(self.position_embeddings, old_grid, new_grid)
        self.position_embeddings = nn.Parameter(resized, requires_grad=self.position_embeddings.requires_grad)

    def embed(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Patches with positions, class token first: `(N, 1 + num_patches, hidden_size)`."""
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
        return self.dropout(tokens + self.position_embeddings)

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
        return self.layer_norm(self.run_layers(self.embed(pixel_values)))


class AlbefTextStack(AlbefPreTrainedModel):
    """Embeddings of pieces and the layers above them; a subclass runs the layers and ends with `post_init`."""

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
        """Pieces with positions: `(P, T)` to `(P, T, hidden_size)`."""
        length, limit = input_ids.shape[1], self.config.max_position_embeddings
        if length > limit:
            raise ValueError(
                f"`input_ids` has {length} pieces a phrase but the position table ends at {limit}. Shorten the "
                f"phrase, or pass `max_length={limit}` to the processor to cut it."
            )
        embeds = self.word_embeddings(input_ids) + self.position_embeddings.weight[:length]
        return self.dropout(self.embedding_layer_norm(embeds + self.token_type_embeddings.weight[0]))


class AlbefTextModel(AlbefTextStack):
    """Text encoder (layers below `fusion_layer`) and fusion encoder (the layers above) in one stack.

    Where a text has several images, the fusion layers come in groups with one layer an image, which share the weights
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
        """Keys and values of every fusion layer, once an image and group (see [`AlbefTextCrossAttention`])."""
        step = self.config.images_per_text
        first_layers = self.layers[self.config.fusion_layer :: step]
        of_groups = [layer.cross_attention.project_image(image_embeds) for layer in first_layers]
        return [pair for pair in of_groups for _ in range(step)]

    def encode(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | PieceLayout, keep_padding: bool = False
    ) -> torch.Tensor:
        """Text encoder alone: `(P, T)` to text_embeds `(P, T, hidden_size)`."""
        return self.run_layers(
            self.embed(input_ids), attention_mask, last=self.config.fusion_layer, keep_padding=keep_padding
        )

    def encode_together(
        self, phrases: list[tuple[torch.Tensor, torch.Tensor]], keep_padding: bool = False
    ) -> list[torch.Tensor]:
        """Text encoder in one pass for several `(input_ids, attention_mask)` of the same length; states of each."""
        ids, masks = zip(*phrases, strict=True)
        states = self.encode(torch.cat(ids), torch.cat(masks), keep_padding)
        return list(states.split([len(part) for part in ids]))

    def run_layers(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | PieceLayout,
        keys_values: list[KeysValues] | None = None,
        image_index: ImageIndex = None,
        first: int = 0,
        last: int | None = None,
        first_piece_only: bool = False,
        keep_padding: bool = False,
        use_eager: bool = False,
    ) -> torch.Tensor:
        r"""Runs layers `first` to `last - 1` on phrases.

        Args:
            hidden_states (`torch.Tensor` of shape `(P, T, hidden_size)`): states of their pieces.
            attention_mask (`torch.Tensor` of shape `(P, T)` or [`~grouping_albef.PieceLayout`]): 1 for real pieces.
            keys_values (`list`, *optional*): keys and values of the images, one pair a fusion layer.
            image_index (`torch.Tensor` of shape `(P,)` or `(P, m)`, or what [`~grouping_albef.PhraseGroups`] made of
                it, *optional*): image row of each phrase, or its m rows, which the layers read in turn.
            first_piece_only (`bool`): the last of these layers computes the first piece alone.
            keep_padding (`bool`): compute the states of padding as well.
            use_eager (`bool`): attention that can be differentiated twice, which the layers above an explained one
                need; the configured one otherwise.

        Returns:
            `torch.Tensor`: states `(P, T, hidden_size)`, 0 for padding unless it is kept; of the first piece,
            `(P, 1, hidden_size)`, with `first_piece_only`.
        """
        last = len(self.layers) if last is None else last
        if first >= last or len(hidden_states) == 0:
            return hidden_states[:, :1] if first_piece_only else hidden_states
        groups = () if keys_values is None else PhraseGroups.of_each(image_index, len(keys_values[0][0]))
        pieces = PieceLayout.of(attention_mask, keep_padding)
        packed = pieces.pack(hidden_states)
        mask = self._make_mask(packed, pieces, use_eager)
        for index in range(first, last):
            options = {"use_eager": use_eager, "first_piece_only": first_piece_only and index == last - 1}
            packed, _ = self._run_layer(index, packed, pieces, mask, keys_values, groups, **options)
        return packed[:, None] if first_piece_only else pieces.unpack(packed)

    def run_explained_layer(
        self,
        index: int,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | PieceLayout,
        keys_values: list[KeysValues],
        image_index: ImageIndex = None,
        keep_padding: bool = False,
        use_eager: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs one fusion layer, as [`run_layers`]; returns the states and its cross-attention probabilities
        `(P, num_heads, T, 1 + num_patches)` as a node of the graph (a leaf if none exists).

        Its self-attention comes before what is explained: it needs `use_eager` where a lower layer is explained too.
        """
        pieces = PieceLayout.of(attention_mask, keep_padding)
        groups = PhraseGroups.of_each(image_index, len(keys_values[0][0]))
        packed = pieces.pack(hidden_states)
        mask = self._make_mask(packed, pieces, use_eager)
        options = {"use_eager": use_eager, "explain": True}
        packed, probabilities = self._run_layer(index, packed, pieces, mask, keys_values, groups, **options)
        return pieces.unpack(packed), probabilities

    def _run_layer(
        self,
        index: int,
        packed: torch.Tensor,
        pieces: PieceLayout,
        mask: torch.Tensor | None,
        keys_values: list[KeysValues] | None,
        groups: tuple[PhraseGroups, ...],
        **options: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        layer = self.layers[index]
        key = value = of_image = None
        if layer.cross_attention is not None:
            number = index - self.config.fusion_layer
            of_image = groups[number % len(groups)]
            key, value = map(of_image.select, keys_values[number])
        return layer(packed, pieces, mask, key, value, of_image, **options)

    def _make_mask(self, packed: torch.Tensor, pieces: PieceLayout, use_eager: bool) -> torch.Tensor | None:
        """Mask of the self-attention on the device of `packed`, made where `pieces` has its mask."""
        attention_mask = pieces.attention_mask
        if use_eager:
            return attention_mask[:, None, None, :].bool().to(packed.device, non_blocking=True)
        state = packed.new_empty((), device=attention_mask.device)
        embeds = state.expand(*pieces.shape, packed.shape[-1])  # read for shape, type and device alone
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
        text_embeds = self.encode(input_ids, attention_mask, keep_padding=True)
        if image_embeds is None:
            return text_embeds
        keys_values = self.project_image(image_embeds)
        options = {"first": self.config.fusion_layer, "keep_padding": True}
        return self.run_layers(text_embeds, attention_mask, keys_values, image_index, **options)


__all__ = [
    "AlbefPreTrainedModel",
    "AlbefTextModel",
    "AlbefTextStack",
    "AlbefVisionModel",
    "KeysValues",
    "eager_attention_forward",
    "resize_position_embeddings",
]
