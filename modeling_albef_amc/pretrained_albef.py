# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What every ALBEF model shares: loading that refuses wrong checkpoints, atomic saving, and image size."""

import copy
import os
from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from .checkpoint_checks_albef import check_checkpoint, check_loaded_weights
from .checkpoint_files_albef import find_checkpoint, take_hub_arguments
from .configuration_albef import AlbefConfig, AlbefVisionConfig
from .inference_albef import refuse_inference_layers
from .messages_albef import list_first
from .pipeline_albef import PIPELINE_ENTRY
from .saving_albef import is_safetensors_error, replacing_files
from .warm_start_albef import find_warm_start

SPECIAL_TOKEN_IDS = ("pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id")


class AlbefPreTrainedModel(PreTrainedModel):
    """Loading, saving, image size, and the settings that all ALBEF models share.

    The facts of a class for a task are class attributes; every list of classes is derived from them. A class that
    sets `task` is entered in `task_classes` and registered with its Auto class.

    Attributes:
        task (`str`): purpose of its checkpoints, used in messages.
        auto_class (Auto class of transformers, *optional*): class that loads its checkpoints; it is not inherited.
        is_general (`bool`): whether every class for a task can start from its checkpoints.
        also_starts_from (`tuple[str]`): names of further classes that it can start from.
        optional_weights (`tuple[str]`): prefixes of weights that a checkpoint may lack: they are initialised, with a
            warning.
        new_weights (`tuple[str]`): prefixes of weights that a warm start initialises; without any, the class loads
            general checkpoints as they are.
        images_per_text (`int`): images that a text is read with.
        label_names (`tuple[str]`): classes of the published classifier, in its order.
        reported_settings (`tuple[str]`): values of [`AlbefConfig`] that only some heads have.
        original_kinds (`dict[str, tuple[str]]`): kinds of the authors' checkpoints that hold all weights of the
            class, each with the prefixes of entries by which it is recognised.
        original_names (`tuple[tuple[str, str]]`): patterns of the entries of its head in these checkpoints, each with
            our name.
        written_classes (`tuple[str]`): names of the classes that these checkpoints are converted to, the default
            first; only the class itself by default.
    """

    task: ClassVar[str] = ""
    auto_class: ClassVar[Any] = None
    is_general: ClassVar[bool] = False
    also_starts_from: ClassVar[tuple[str, ...]] = ()
    optional_weights: ClassVar[tuple[str, ...]] = ()
    new_weights: ClassVar[tuple[str, ...]] = ()
    images_per_text: ClassVar[int] = 1
    label_names: ClassVar[tuple[str, ...]] = ()
    reported_settings: ClassVar[tuple[str, ...]] = ("projection_dim", "queue_size")
    original_kinds: ClassVar[dict[str, tuple[str, ...]]] = {}
    original_names: ClassVar[tuple[tuple[str, str], ...]] = ()
    written_classes: ClassVar[tuple[str, ...]] = ()
    task_classes: ClassVar[dict[str, type[Any]]] = {}

    config: AlbefConfig
    base_model_prefix = "albef"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["AlbefVisionLayer", "AlbefTextLayer"]

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        if "task" in vars(cls):
            cls.task_classes[cls.__name__] = cls
            auto_class = vars(cls).get("auto_class")
            # With its own name in place of an Auto class, a checkpoint ships the code, too, and names the class.
            cls._auto_class = cls.__name__ if auto_class is None else auto_class.__name__
            if auto_class is not None:
                auto_class.register(cls.config_class, cls)

    @classmethod
    def build_auto_map(cls) -> dict[str, str]:
        """Map each Auto class to the class of the shipped files that it loads."""
        module = next(owner.__module__ for owner in cls.__mro__ if "task" in vars(owner))
        return {"AutoConfig": "configuration_albef.AlbefConfig"} | {
            model_class._auto_class: f"{module.rpartition('.')[2]}.{name}"
            for name, model_class in cls.task_classes.items()
            if model_class._auto_class != name and model_class.__module__ == module
        }

    @classmethod
    def fit_config(cls, config: AlbefConfig, stored: AlbefConfig, path: str, chosen: Collection[str]) -> None:
        """Changes a configuration for a warm start from the checkpoint at `path`, whose configuration is `stored`.

        Args:
            config ([`AlbefConfig`]): configuration of this class.
            stored ([`AlbefConfig`]): configuration of the checkpoint.
            path (`str`): the checkpoint, for messages.
            chosen (collection of `str`): values that the caller has set.
        """

    @classmethod
    def adapt_weights(
        cls, weights: dict[str, torch.Tensor], stored: AlbefConfig, config: AlbefConfig
    ) -> tuple[dict[str, torch.Tensor], list[str]]:
        """Weights of this class from those of another class's checkpoint, and what was done, for the report.

        Args:
            weights (`dict[str, torch.Tensor]`): weights of the checkpoint.
            stored, config ([`AlbefConfig`]): configuration of the checkpoint and of this class.
        """
        return weights, []

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args,
        image_size: int | tuple[int, int] | None = None,
        output_loading_info: bool = False,
        **kwargs,
    ) -> "AlbefPreTrainedModel":
        r"""Loads a checkpoint; with `image_size` its position embeddings are resized (see [`resize_image`]).

        A checkpoint that lacks weights of the encoders or projections is refused. Only a head may be absent: it is
        initialised, and a warning lists it. A class for a task also starts from a checkpoint of pre-training,
        matching or retrieval: a warning lists what was read, duplicated and newly initialised (`warm_start_albef`).

        Args:
            pretrained_model_name_or_path (`str` or path): folder or Hub repository.
            image_size (`int` or (height, width), *optional*): image size in pixels to use the model at. A `config`
                whose `vision_config.image_size` differs from the checkpoint's has the same effect.
            output_loading_info (`bool`, defaults to `False`): also return what was missing and unexpected.
            kwargs: as for [`~transformers.PreTrainedModel.from_pretrained`].

        Raises:
            FileNotFoundError: there is no such folder, nor a repository that can be read.
            ValueError: the checkpoint is of another architecture, for another task, incomplete or damaged, its
                configuration does not fit its weights, or its weights are quantised or not finite.
        """
        path, config, warm_start = pretrained_model_name_or_path, kwargs.get("config"), None
        if path is not None:
            kwargs |= find_checkpoint(path, take_hub_arguments(kwargs))
            check_checkpoint(path, cls.config_class.model_type, take_hub_arguments(kwargs))
            warm_start = find_warm_start(path, cls, take_hub_arguments(kwargs))
        if path is not None and isinstance(config, AlbefConfig):
            stored = cls.config_class.from_pretrained(path, **take_hub_arguments(kwargs))
            wanted = config.vision_config.image_size
            if stored.vision_config.grid_size != config.vision_config.grid_size:
                image_size = wanted if image_size is None else image_size
                kwargs["config"] = config = copy.deepcopy(config)
                config.vision_config.image_size = stored.vision_config.image_size
        try:
            if warm_start is not None:
                kwargs = warm_start.prepare(kwargs)
            source = path if warm_start is None else None
            model, information = super().from_pretrained(source, *model_args, output_loading_info=True, **kwargs)
        except Exception as error:
            if not is_safetensors_error(error):
                raise
            raise ValueError(
                f"the weights of {path} cannot be read ({error}): the file is damaged or was cut off. Download or "
                "save it again."
            ) from error
        allowed = cls.optional_weights if warm_start is None else cls.new_weights
        _check_missing_keys(path, cls.__name__, information["missing_keys"], allowed)
        if warm_start is not None:
            warm_start.announce(model, information["missing_keys"])
        check_loaded_weights(model, path)
        if image_size is not None:
            model.resize_image(image_size)
        return (model, information) if output_loading_info else model

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        push_to_hub: bool = False,
        distributed_checkpoint: bool = False,
        **kwargs,
    ) -> None:
        r"""Save weights, configuration and the code that reads them, all or nothing.

        Everything is written to a folder inside `save_directory` first and moved into place when it is complete, so
        that a full disk leaves a checkpoint that was there before as it was (this takes the space of both). Only with
        `push_to_hub` or `distributed_checkpoint` the files are written in place.

        Args:
            save_directory, is_main_process, push_to_hub, distributed_checkpoint, kwargs: as for
                [`~transformers.PreTrainedModel.save_pretrained`].

        Raises:
            OSError: the files could not be written, for want of space or of permission.
            ValueError: weights of the model were packed or quantised for inference.
        """
        refuse_inference_layers(self, "saved or pushed")
        if isinstance(self.config, AlbefConfig):
            self.config.auto_map = self.build_auto_map()
            self.config.custom_pipelines = copy.deepcopy(PIPELINE_ENTRY)
        options = dict(
            kwargs,
            is_main_process=is_main_process,
            push_to_hub=push_to_hub,
            distributed_checkpoint=distributed_checkpoint,
        )
        if push_to_hub or distributed_checkpoint or not self.should_save_on_this_rank(is_main_process):
            super().save_pretrained(save_directory, **options)
            return
        with replacing_files(save_directory) as folder:
            super().save_pretrained(folder, **options)

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """Uploads the model, as [`~transformers.PreTrainedModel.push_to_hub`]; refuses what cannot be saved first."""
        refuse_inference_layers(self, "saved or pushed")
        return super().push_to_hub(repo_id, **kwargs)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        r"""Change the number of word embeddings, for example after `tokenizer.add_tokens`.

        Everything that has one row per token follows: word embeddings, masked-word head with its bias, answer decoder,
        momentum copies, whose new rows are those of the modules they follow, and `vocab_size` in every configuration.

        Args:
            new_num_tokens (`int`, *optional*): the new number; unchanged by default.
            pad_to_multiple_of (`int`, *optional*): rounds the number up to a multiple of this one.
            mean_resizing (`bool`, defaults to `True`): draws new embeddings around the mean of the old ones, not
                around 0.

        Raises:
            TypeError, ValueError: no positive number, one that a special token would not fit in, or a model with LoRA
                layers.
        """
        if new_num_tokens is not None or pad_to_multiple_of is not None:
            self._check_resizing(new_num_tokens, pad_to_multiple_of)
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        readout = self.get_output_embeddings()
        if readout is not None and readout.bias is not None:
            fit_rows(readout.bias, torch.zeros_like(readout.weight[:, 0]))
        for module in self.modules():
            if isinstance(module, AlbefPreTrainedModel) and not isinstance(module.config, AlbefVisionConfig):
                module.config.get_text_config().vocab_size = self.get_input_embeddings().num_embeddings
        return embeddings

    def _check_resizing(self, new_num_tokens: int | None, pad_to_multiple_of: int | None) -> None:
        for name, value in (("new_num_tokens", new_num_tokens), ("pad_to_multiple_of", pad_to_multiple_of)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise TypeError(f"`{name}` must be an integer, got {value!r}. Pass `len(tokenizer)`.")
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be positive, got {value}. Pass `len(tokenizer)`.")
        text_config = self.config.get_text_config()
        needed = 1 + max(getattr(text_config, name) or 0 for name in SPECIAL_TOKEN_IDS)
        if new_num_tokens is not None and new_num_tokens < needed:
            raise ValueError(
                f"`new_num_tokens` is {new_num_tokens}, but special tokens must stay, and the last of them has the id "
                f"{needed - 1}. Keep {needed} tokens at least."
            )
        if hasattr(self, "peft_config"):
            raise ValueError(
                "the model has LoRA layers, and an adapter does not hold word embeddings. Resize the base, save it, "
                "load it from there, and add LoRA then; or merge the adapter first."
            )

    def resize_image(self, image_size: int | tuple[int, int]) -> None:
        r"""Change the image size of the model: position embeddings are resized bicubically, in float32.

        The class position stays as it is (`align_corners=False`). The configuration is updated; give the processor
        the same size (`AlbefProcessor.from_pretrained(path, size={"height": 384, "width": 384})`).

        Args:
            image_size (`int` or (height, width)): the new size in pixels, a multiple of the patch size.
        """
        config = getattr(self.config, "vision_config", self.config)
        new_grid = AlbefVisionConfig(**{**config.to_dict(), "image_size": image_size}).grid_size  # checks the size
        for module in self.modules():
            if isinstance(module, AlbefPreTrainedModel) and isinstance(module.config, AlbefVisionConfig):
                module.resize_position_embeddings(config.grid_size, new_grid)
        config.image_size = image_size


def _check_missing_keys(
    path: str | os.PathLike | None, model_name: str, missing_keys: set[str], allowed: tuple[str, ...]
) -> None:
    essential = sorted(name for name in missing_keys if not name.startswith(allowed))
    if not essential:
        return
    source = "the given state dict" if path is None else path
    raise ValueError(
        f"{source} lacks {len(essential)} weights of {model_name} ({list_first(essential)}). "
        "It is incomplete or of another architecture; random weights in their place would give meaningless heatmaps. "
        "Original checkpoints of ALBEF and AMC have other names: convert them with `albef-amc convert`."
    )


@torch.no_grad()
def fit_rows(parameter: torch.Tensor, rows: torch.Tensor) -> None:
    """Resize a parameter in place to the rows of `rows`: existing rows are kept, new ones copied from `rows`."""
    kept = parameter.data[: len(rows)]
    parameter.data = torch.cat([kept, rows[len(kept) :].to(kept)])


def resize_position_embeddings(
    position_embeddings: torch.Tensor,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    antialias: bool = False,
) -> torch.Tensor:
    r"""Resizes a table of position embeddings to another patch grid.

    Args:
        position_embeddings (`torch.Tensor` of shape `(1, 1 + old_height * old_width, hidden_size)`): class position
            first, patches row by row.
        old_grid, new_grid (`tuple` of `int`): (height, width) in patches.
        antialias (`bool`, defaults to `False`): filter before reducing, as DINOv2 with registers does.

    Returns:
        `torch.Tensor` of shape `(1, 1 + new_height * new_width, hidden_size)`; bicubic, `align_corners=False`,
        computed in float32, class position unchanged.
    """
    class_position, patches = position_embeddings[:, :1], position_embeddings[:, 1:]
    patches = patches.reshape(1, *old_grid, -1).permute(0, 3, 1, 2).float()
    patches = nn.functional.interpolate(
        patches, size=new_grid, mode="bicubic", align_corners=False, antialias=antialias
    )
    patches = patches.permute(0, 2, 3, 1).flatten(1, 2).to(position_embeddings.dtype)
    return torch.cat([class_position, patches], dim=1)


__all__ = ["SPECIAL_TOKEN_IDS", "AlbefPreTrainedModel", "fit_rows", "resize_position_embeddings"]
