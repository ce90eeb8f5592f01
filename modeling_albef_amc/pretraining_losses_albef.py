# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Pure functions of ALBEF's pre-training: contrastive targets, hard negatives, masked words, distillation.

Source: Li et al., "Align before Fuse", NeurIPS 2021, sections 3.2 and 3.3.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import nn

from .configuration_albef import ITM_MATCH_INDEX
from .explanation_albef import at_least_float32
from .layout_albef import PhraseLayout, may_be_equal, refuse_layout, select_rows
from .parallel_albef import CandidateScope, JointRows, attach

UNKNOWN_ID = -1  # of an image or a text; equal to no other
ITM_MISMATCH_INDEX = 0
IGNORED_LABEL = -100
PROBABILITY_ONE = 2.0**62  # as an integer: sums of integers do not depend on the order of their terms
REPLACE_WITH_MASK, REPLACE_AT_ALL = 0.8, 0.9  # of the chosen tokens: 80 % [MASK], 10 % a random token, 10 % kept

DistillationAxis = Literal["vocabulary", "sequence"]
NegativeSampling = Literal["hard", "uniform"]


@dataclass(frozen=True)
class JointBatch:
    """Images and phrases that contrastive and matching losses choose their candidates from, and which are true of
    each other.

    A phrase is true of its own image, of other images with the same identity, and of every image that has a phrase
    with the same text.

    Args:
        images, phrases ([`JointRows`]): rows of this process among those of all.
        image_ids (`torch.Tensor` of shape `(joint N,)`): identity of every image.
        phrase_ids, text_ids (`torch.Tensor` of shape `(joint P,)`): identity of the image and of the text of every
            phrase.
        facts ([`KnownPairs`]): images and texts that are true of them: the phrases, and further descriptions.
        has_text_ids (`bool`): whether texts have identities; otherwise a phrase is true of images with the identity of
            its own image alone, and nothing has to be looked up.
    """

    images: JointRows
    phrases: JointRows
    image_ids: torch.Tensor
    phrase_ids: torch.Tensor
    text_ids: torch.Tensor
    facts: "KnownPairs"
    has_text_ids: bool

    @classmethod
    def gather(
        cls,
        image_ids: torch.Tensor | None,
        num_images: int,
        image_index: torch.Tensor,
        scope: CandidateScope,
        text_ids: torch.Tensor | None = None,
        descriptions: "Descriptions | None" = None,
    ) -> "JointBatch":
        """The joint batch of `num_images` images and of phrases on image rows `image_index` of this process."""
        device = image_index.device
        images = JointRows.of(num_images, device, scope)
        phrases = JointRows.of(len(image_index), device, scope)
        ids = resolve_ids("image_ids", image_ids, num_images, device, first=images.offset)
        texts = resolve_ids("text_ids", text_ids, len(image_index), device, first=phrases.offset)
        phrase_ids, joint_texts = phrases.gather(ids[image_index]), phrases.gather(texts)
        facts = KnownPairs(phrase_ids, joint_texts)
        if descriptions is not None:
            rows = JointRows.of(len(descriptions.text_ids), device, scope)
            described = rows.gather(ids[descriptions.image_index]), rows.gather(descriptions.text_ids)
            facts = facts.extend(KnownPairs(*described))
        return cls(images, phrases, images.gather(ids), phrase_ids, joint_texts, facts, text_ids is not None)

    @property
    def own_image_ids(self) -> torch.Tensor:
        """Identities of this process' images, `(N,)`."""
        return self.image_ids[self.images.offset :][: self.images.count]

    @property
    def own_phrase_ids(self) -> torch.Tensor:
        """Image identities of this process' phrases, `(P,)`."""
        return self.phrase_ids[self.phrases.offset :][: self.phrases.count]

    @property
    def own_text_ids(self) -> torch.Tensor:
        """Text identities of this process' phrases, `(P,)`."""
        return self.text_ids[self.phrases.offset :][: self.phrases.count]

    def find_images(self, queues: "QueueIds | None" = None) -> torch.Tensor:
        """Whether phrase p of this process is true of image c of the joint batch, then of the queue: `(P, C)` bool."""
        image_ids = self.image_ids if queues is None else torch.cat([self.image_ids, queues.image_ids])
        if not self.has_text_ids:
            return self.own_phrase_ids[:, None] == image_ids
        facts = self.facts if queues is None else self.facts.extend(queues.texts)
        return find_true_pairs(self.own_text_ids, image_ids, facts.text_ids, facts.image_ids)

    def find_texts(self, queues: "QueueIds | None" = None) -> torch.Tensor:
        """Whether text c of the joint batch, then of the queue, is true of image n of this process: `(N, C)` bool."""
        phrases = KnownPairs(self.phrase_ids, self.text_ids)
        if queues is not None:
            phrases = phrases.extend(queues.texts)
        if not self.has_text_ids:
            return self.own_image_ids[:, None] == phrases.image_ids
        facts = self.facts if queues is None else self.facts.extend(queues.texts)
        return find_true_pairs(self.own_image_ids, phrases.text_ids, facts.image_ids, facts.text_ids)


@dataclass(frozen=True)
class Descriptions:
    """Texts that are true of images of a batch, beside its phrases.

    Args:
        image_index (`torch.Tensor` of shape `(D,)`): image row of each.
        text_ids (`torch.Tensor` of shape `(D,)`): identity of each text, >= 0.
    """

    image_index: torch.Tensor
    text_ids: torch.Tensor


def pair_descriptions(ids: torch.Tensor | None, image_index: torch.Tensor | None) -> Descriptions | None:
    """The descriptions of a batch, which come as two tensors; None without any."""
    if ids is None and image_index is None:
        return None
    if ids is None or image_index is None or ids.shape != image_index.shape:
        raise ValueError("`description_ids` and `description_index` belong together: one image row for each text.")
    return Descriptions(image_index, ids)


@dataclass(frozen=True)
class KnownPairs:
    """F pairs of an image and a text that is true of it.

    Args:
        image_ids, text_ids (`torch.Tensor` of shape `(F,)`): their identities; -1 is equal to no other.
    """

    image_ids: torch.Tensor
    text_ids: torch.Tensor

    def extend(self, others: "KnownPairs") -> "KnownPairs":
        """These pairs and others."""
        return KnownPairs(torch.cat([self.image_ids, others.image_ids]), torch.cat([self.text_ids, others.text_ids]))


@dataclass(frozen=True)
class QueueIds:
    """Identities of what the queues hold.

    Args:
        image_ids (`torch.Tensor` of shape `(queue_size,)`): images of the image queue; -1 if unknown.
        texts ([`KnownPairs`]): texts of the text queue, with their images.
    """

    image_ids: torch.Tensor
    texts: KnownPairs


def find_true_pairs(
    row_ids: torch.Tensor, candidate_ids: torch.Tensor, known_row_ids: torch.Tensor, known_candidate_ids: torch.Tensor
) -> torch.Tensor:
    r"""Whether a known pair joins the identity of a row with that of a candidate: `(R, C)` bool.

    Nothing of the size of all candidates times all known pairs is computed, and nothing waits for the device.

    Args:
        row_ids (`torch.Tensor` of shape `(R,)`), candidate_ids (`torch.Tensor` of shape `(C,)`): identities.
        known_row_ids, known_candidate_ids (`torch.Tensor` of shape `(F,)`): identities that belong together.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc.pretraining_losses_albef import find_true_pairs
    >>> find_true_pairs(torch.tensor([5, 6]), torch.tensor([1, 2, 1]), torch.tensor([5]), torch.tensor([1]))
    tensor([[ True, False,  True],
            [False, False, False]])

    ```
    """
    ordered = candidate_ids.sort().values
    place = torch.searchsorted(ordered, known_candidate_ids).clamp(max=len(ordered) - 1)
    is_known = (ordered[place] == known_candidate_ids) & (known_candidate_ids != UNKNOWN_ID)
    joins = (row_ids[:, None] == known_row_ids) & (is_known & (known_row_ids != UNKNOWN_ID))
    counts = torch.zeros(len(row_ids), len(ordered), device=row_ids.device).index_add_(1, place, joins.float())
    return counts.index_select(1, torch.searchsorted(ordered, candidate_ids)) > 0


def resolve_ids(name: str, ids: torch.Tensor | None, count: int, device: torch.device, first: int = 0) -> torch.Tensor:
    """Identity of every image or text, int64; one without (or below 0) gets its own, below -1.

    Args:
        name (`str`): name of the argument, for the message.
        ids (`torch.Tensor` of shape `(count,)`, *optional*): identities.
        count (`int`): number of images or texts.
        device (`torch.device`): where the result is.
        first (`int`, defaults to 0): number of the first one in the joint batch: own identities differ between
            processes.
    """
    own_ids = UNKNOWN_ID - 1 - first - torch.arange(count, device=device)
    if ids is None:
        return own_ids
    if ids.shape != (count,):
        raise ValueError(f"`{name}` must have shape ({count},), one identity each, got {tuple(ids.shape)}.")
    return torch.where(ids < 0, own_ids, ids)


def compute_contrastive_targets(
    is_positive: torch.Tensor, momentum_logits: torch.Tensor, alpha: float | torch.Tensor
) -> torch.Tensor:
    r"""Targets of a contrastive loss: equal shares over all positives, mixed with the momentum model's.

    Args:
        is_positive (`torch.Tensor` of shape `(R, C)`, bool): candidates, batch then queue, that are true of a row.
        momentum_logits (`torch.Tensor` of shape `(R, C)`): similarities of the momentum model over temperature.
        alpha (`float`): weight of the momentum model's softmax, in [0, 1].

    Returns:
        `torch.Tensor` of shape `(R, C)`: rows sum to 1, or to 0 without a positive (an image of the batch without a
        phrase).
    """
    positives = is_positive.to(momentum_logits.dtype)
    num_positives = positives.sum(dim=1, keepdim=True)
    targets = alpha * momentum_logits.softmax(dim=1) + (1 - alpha) * positives / num_positives.clamp(min=1)
    return targets * (num_positives > 0)


def soft_cross_entropy(logits: torch.Tensor, targets: torch.Tensor, rows: JointRows | None = None) -> torch.Tensor:
    """Cross-entropy of `logits` against distributions, both of shape `(R, C)`.

    Reduction: mean over the rows whose target is not all zero; 0 without any. With `rows` the sum of this process is
    divided by its share of those rows, so that the mean over processes is the mean over all rows.
    """
    num_rows = (targets > 0).any(dim=1).sum()
    num_rows = num_rows if rows is None else rows.share(num_rows)
    return -(logits.log_softmax(dim=1) * targets).sum() / torch.where(num_rows > 0, num_rows, 1)


def compare_features(features: torch.Tensor, batch: torch.Tensor, queue: torch.Tensor) -> torch.Tensor:
    """Inner products of `features` `(R, dim)` with a batch `(K, dim)` and then with a queue `(dim, queue_size)`, which
    is not copied: `(R, K + queue_size)`."""
    return torch.cat([features @ batch.T, features @ queue], dim=1)


def compute_negative_probabilities(
    logits: torch.Tensor, is_true: torch.Tensor, sampling: NegativeSampling = "hard"
) -> torch.Tensor:
    r"""Probability of every candidate to be drawn as a negative; never one that is true of the row.

    True candidates are removed before a float32 softmax, so that no row sums to zero by underflow.

    Args:
        logits (`torch.Tensor` of shape `(R, C)`): contrastive similarities over temperature.
        is_true (`torch.Tensor` of shape `(R, C)`, bool): candidates that are not negatives.
        sampling (`str`, defaults to `"hard"`): `"hard"` prefers similar candidates, as published; `"uniform"` draws
            each with the same probability.

    Returns:
        `torch.Tensor` of shape `(R, C)`, float32; a row without any candidate is all zero.
    """
    scores = logits.detach().float() if sampling == "hard" else torch.zeros_like(logits, dtype=torch.float32)
    probabilities = scores.masked_fill(is_true, -torch.inf).softmax(dim=1)
    return probabilities.nan_to_num(0.0)  # a row of -inf alone has no candidate


def draw_negatives(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    r"""Draws one candidate per row by inverting the cumulative distribution at a given uniform number.

    Probabilities are summed as integers, so that every device draws the same candidates, every time.

    Args:
        probabilities (`torch.Tensor` of shape `(R, C)`): rows that sum to 1, or to 0 where there is no candidate.
        uniforms (`torch.Tensor` of shape `(R,)`): numbers in [0, 1).

    Returns:
        `torch.Tensor` of shape `(R,)`, int64; -1 for rows without a candidate.
    """
    cumulative = (probabilities.double() * PROBABILITY_ONE).ceil().long().cumsum(dim=1)
    total = cumulative[:, -1:]
    index = torch.searchsorted(cumulative, (uniforms.double()[:, None] * total.double()).long(), right=True)
    last_candidate = (probabilities > 0).long().cumsum(dim=1).argmax(dim=1, keepdim=True)
    return torch.where(total > 0, torch.minimum(index, last_candidate), -1)[:, 0]


class Negatives(NamedTuple):
    """Negative pairs of P phrases.

    Args:
        image_index (`torch.Tensor` of shape `(P,)`): an image for every phrase; -1 for none.
        text_index (`torch.Tensor` of shape `(P,)`): a phrase for the image of every phrase; -1 for none.
        excluded (`torch.Tensor`, scalar, *optional*): images of another identity that a phrase is true of, and that
            are therefore not negatives: mean number per phrase. None if the pairs were given.
    """

    image_index: torch.Tensor
    text_index: torch.Tensor
    excluded: torch.Tensor | None


@torch.no_grad()
def draw_negative_pairs(
    batch: JointBatch,
    logits_per_text: torch.Tensor,
    logits_per_image: torch.Tensor,
    image_index: torch.Tensor,
    uniforms: torch.Tensor,
    sampling: NegativeSampling,
) -> Negatives:
    """Draw, for every phrase, an image that it is not known to be true of, and a phrase that is not of its image.

    Args:
        batch ([`JointBatch`]): the candidates, and which are true of each other.
        logits_per_text, logits_per_image (`torch.Tensor` of shapes `(P, joint N)` and `(N, joint P)`): contrastive
            similarities over temperature; their values are read by the sampling `"hard"` alone.
        image_index (`torch.Tensor` of shape `(P,)`): image row of each phrase.
        uniforms (`torch.Tensor` of shape `(P, 2)`): numbers in [0, 1) that decide the draws (image, text).
        sampling (`str`): see [`compute_negative_probabilities`].
    """
    is_true = batch.find_images()
    excluded = is_true & (batch.own_phrase_ids[:, None] != batch.image_ids)
    over_images = compute_negative_probabilities(logits_per_text, is_true, sampling)
    over_texts = compute_negative_probabilities(logits_per_image, batch.find_texts(), sampling)
    image = draw_negatives(over_images, uniforms[:, 0])
    text = draw_negatives(over_texts[image_index], uniforms[:, 1])
    return Negatives(image, text, excluded.sum() / len(excluded))


def compute_matching_loss(
    itm_pair_logits: torch.Tensor, num_matches: int, phrases: JointRows, received: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    """Cross-entropy of matching scores `(K, 2)`, of which the first `num_matches` belong to pairs that match.

    Args:
        phrases ([`~parallel_albef.JointRows`]): the processes that share the batch.
        received (`tuple`): states of negatives, which every process must have in its loss (see `attach`).

    Reduction: sum over this process' pairs, divided by its share of all, so that the mean over processes is that over
    all pairs.
    """
    labels = torch.full((len(itm_pair_logits),), ITM_MISMATCH_INDEX, device=itm_pair_logits.device)
    labels[:num_matches] = ITM_MATCH_INDEX
    total = nn.functional.cross_entropy(at_least_float32(itm_pair_logits), labels, reduction="sum")
    loss = total / phrases.share(torch.full((), len(labels), device=labels.device))
    if phrases.is_joint:
        for rows in received:
            loss = attach(loss, rows)
    return loss


def mask_tokens(
    input_ids: torch.Tensor,
    maskable: torch.Tensor,
    mask_token_id: int,
    vocab_size: int,
    probability: float,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Masks tokens for masked language modelling: of the chosen ones 80 % [MASK], 10 % random, 10 % kept (BERT).

    Args:
        input_ids (`torch.Tensor` of shape `(P, T)` or `(T,)`): tokens.
        maskable (`torch.Tensor` of the same shape): True where a token may be chosen (not [CLS], not padding).
        mask_token_id (`int`): id of [MASK].
        vocab_size (`int`): random tokens are drawn from the complete vocabulary.
        probability (`float`): share of tokens to choose, in [0, 1].
        generator (`torch.Generator`, *optional*): source of the random numbers, on the CPU.

    Returns:
        `tuple` of `mlm_input_ids` and `mlm_labels` (-100 where nothing is predicted), shaped like `input_ids`.
    """
    shape, device = input_ids.shape, input_ids.device
    chosen = (torch.rand(shape, generator=generator).to(device) < probability) & maskable.bool()
    treatment = torch.rand(shape, generator=generator).to(device)
    random_tokens = torch.randint(vocab_size, shape, generator=generator).to(device)
    masked = torch.where(chosen & (treatment < REPLACE_WITH_MASK), mask_token_id, input_ids)
    replaced = chosen & (treatment >= REPLACE_WITH_MASK) & (treatment < REPLACE_AT_ALL)
    return torch.where(replaced, random_tokens, masked), input_ids.masked_fill(~chosen, IGNORED_LABEL)


@dataclass(frozen=True)
class MaskedPhrases:
    r"""The phrases that the masked-word loss reads: R of P, those with a masked token.

    With the sequence axis every phrase and every token is read, as in the released implementation.

    Args:
        rows (`torch.Tensor` of shape `(R,)`): which phrases; on the CPU.
        input_ids (`torch.Tensor` of shape `(R, T)`): their tokens.
        attention_mask (`torch.Tensor` of shape `(R, T)`): 1 for real ones; on the CPU.
        read_index (`torch.Tensor` of shape `(num_masked,)`, *optional*): positions whose scores are needed, among
            R x T; None for all of them.
        labels (`torch.Tensor` of shape `(num_masked,)`, or `(P, T)` with the sequence axis): the true tokens.
        axis (`str`): see [`compute_distillation_loss`].
    """

    rows: torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    read_index: torch.Tensor | None
    labels: torch.Tensor
    axis: DistillationAxis

    @classmethod
    def select(
        cls, input_ids: torch.Tensor, labels: torch.Tensor, layout: PhraseLayout, axis: DistillationAxis
    ) -> "MaskedPhrases":
        """Those of `input_ids` and `labels`, each `(P, T)`, whose phrases `layout` describes.

        If it knows their masked tokens, nothing waits for the device.
        """
        if axis == "sequence":
            return cls(torch.arange(len(input_ids)), input_ids, layout.attention_mask, None, labels, axis)
        is_masked, is_label = layout.masked_tokens, labels != IGNORED_LABEL
        if is_masked is None:
            is_masked = is_label.cpu()
        elif not may_be_equal(is_masked, is_label):
            refuse_layout("it was built from other `mlm_labels`")
        rows = is_masked.any(dim=1).nonzero().flatten()
        read_index = is_masked[rows].flatten().nonzero().flatten().to(labels.device, non_blocking=True)
        read_labels = select_rows(labels.flatten(), is_masked.flatten().nonzero().flatten())
        return cls(rows, select_rows(input_ids, rows), layout.attention_mask[rows], read_index, read_labels, axis)

    @property
    def reads_padding(self) -> bool:
        """Whether scores at padding are needed."""
        return self.axis == "sequence"

    def read(self, states: torch.Tensor) -> torch.Tensor:
        """States `(R, T, hidden_size)` at the positions that are read, shaped like `labels` before the last axis."""
        return states if self.read_index is None else states.flatten(0, 1).index_select(0, self.read_index)


def compute_distillation_loss(
    logits: torch.Tensor, momentum_logits: torch.Tensor, labels: torch.Tensor, axis: DistillationAxis
) -> torch.Tensor:
    r"""Cross-entropy of the masked-word scores against the momentum model's distribution over the vocabulary.

    Args:
        logits, momentum_logits (`torch.Tensor` of shape `(P, T, vocab_size)`, or `(num_masked, vocab_size)` with the
            vocabulary axis): scores.
        labels (`torch.Tensor` of shape `logits.shape[:-1]`): -100 where nothing is predicted.
        axis (`str`): `"vocabulary"` normalises the online scores over the vocabulary; `"sequence"` over the positions
            of a phrase, padding included, which is what AMC's released implementation computes (for parity only).

    Reduction: mean over masked positions; 0 without any.
    """
    log_probabilities = logits.log_softmax(dim=-1 if axis == "vocabulary" else 1)
    per_position = -(log_probabilities * momentum_logits.softmax(dim=-1)).sum(dim=-1)
    is_masked = labels != IGNORED_LABEL
    return (per_position * is_masked).sum() / is_masked.sum().clamp(min=1)


def compute_masked_word_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of masked words. Reduction: mean over positions whose label is not -100; 0 without any."""
    total = nn.functional.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
    )
    return total / (labels != IGNORED_LABEL).sum().clamp(min=1)


__all__ = [
    "IGNORED_LABEL",
    "UNKNOWN_ID",
    "Descriptions",
    "DistillationAxis",
    "JointBatch",
    "KnownPairs",
    "MaskedPhrases",
    "NegativeSampling",
    "Negatives",
    "QueueIds",
    "compare_features",
    "compute_contrastive_targets",
    "compute_distillation_loss",
    "compute_masked_word_loss",
    "compute_matching_loss",
    "compute_negative_probabilities",
    "draw_negative_pairs",
    "draw_negatives",
    "find_true_pairs",
    "mask_tokens",
    "pair_descriptions",
    "resolve_ids",
    "soft_cross_entropy",
]
