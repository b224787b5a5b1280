"""Maps as arguments of the views of BertViz."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anylocal.adapter import check_forward
from anylocal.drawing import map_of, sample_of
from anylocal.errors import ShapeError
from anylocal_bert._sides import attends_across, real, tokens_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch

    from anylocal.attention import AttentionMap, Tokens


def bertviz(maps: Iterable[AttentionMap], *, sample: int | None = None) -> dict[str, Any]:
    """Return the arguments of BertViz's views: ``bertviz.head_view(**bertviz(maps))``, ``bertviz.model_view(…)``.

    Padding is cut off.

    Parameters
    ----------
    maps : iterable of AttentionMap
        The layers of one forward pass, first layer first.
    sample : int, optional
        Which text of the batch; a batch of one needs none.

    Returns
    -------
    dict
        ``attention``, a tensor of shape (1, head, token, token) for each layer, and ``tokens``, a list of str; of a
        pair of sentences also ``sentence_b_start``, where the second one starts. With
        cross-attention instead: those of ``encoder_attention``, ``decoder_attention`` and ``cross_attention`` for
        which there are layers, ``encoder_tokens`` and ``decoder_tokens``. Tensors are detached, and on the CPU.

    Raises
    ------
    ChoiceError
        If the batch holds several texts and none was chosen, or the maps belong to several forward passes.
    ShapeError
        If the positions of a layer are not tokens, layers of one kind differ in heads, or a layer attends to a text
        that is neither the encoder's nor the decoder's.
    OptionError, StateError, PositionError
        If an item is not a map, no map was given, or the text does not exist.

    Notes
    -----
    J. Vig, "A Multiscale Visualization of Attention in the Transformer Model", ACL 2019 (system demonstrations).

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Tokens
    >>> from anylocal_bert import bertviz
    >>> axis = Tokens(["[CLS]", "hi", "[PAD]"], padding=[False, False, True])
    >>> weights = torch.tensor([[0.5, 0.5, 0.0]]).expand(1, 12, 3, 3)
    >>> arguments = bertviz([AttentionMap.from_weights(weights, queries=axis, keys=axis)])
    >>> arguments["tokens"], arguments["attention"][0].shape
    (['[CLS]', 'hi'], torch.Size([1, 12, 2, 2]))
    """
    layers = [map_of(layer, "bertviz") for layer in maps]
    check_forward(layers, "bertviz")
    at = sample_of(layers[0], sample)
    across = [layer for layer in layers if attends_across(layer)]
    if not across:
        return _one_text(layers, at)
    sides = _Sides(across[0], layers, at)
    kinds: dict[str, list[AttentionMap]] = {}
    for layer in layers:
        kinds.setdefault(sides.kind(layer), []).append(layer)
    attention = {name: [sides.cut(layer, name) for layer in found] for name, found in kinds.items()}
    return {
        **_alike(attention),
        "encoder_tokens": [sides.keys.label(position, at) for position in sides.encoder],
        "decoder_tokens": [sides.queries.label(position, at) for position in sides.decoder],
    }


class _Sides:
    """The texts of an encoder and a decoder, without padding."""

    def __init__(self, across: AttentionMap, layers: Sequence[AttentionMap], sample: int) -> None:
        self.sample = sample
        self.queries, self.keys = _tokens(across)
        own = [layer for layer in layers if not attends_across(layer) and self.kind(layer) == "decoder_attention"]
        self.encoder = real(self.keys, sample)
        # Only the decoder's own layers know the padding of its text.
        self.decoder = real(_tokens(own[0])[1] if own else self.queries, sample)

    def kind(self, layer: AttentionMap) -> str:
        queries, keys = (axis.labels(self.sample) for axis in _tokens(layer))
        source, target = self.keys.labels(self.sample), self.queries.labels(self.sample)
        if attends_across(layer) and (queries, keys) == (target, source):
            return "cross_attention"
        # If both texts are equal, the name of the layer decides.
        kinds = {"encoder_attention": source, "decoder_attention": target}
        found = [kind for kind, text in kinds.items() if queries == keys == text]
        if not found or attends_across(layer):
            msg = (
                f"{layer!r} attends to a text that is neither the encoder's nor the decoder's; choose the "
                "layers of one encoder and decoder, of a forward pass over the whole text."
            )
            raise ShapeError(msg)
        return found["decoder" in layer.name and len(found) > 1]

    def cut(self, layer: AttentionMap, kind: str) -> torch.Tensor:
        rows = self.encoder if kind == "encoder_attention" else self.decoder
        columns = self.decoder if kind == "decoder_attention" else self.encoder
        return _cut(layer, self.sample, rows, columns)


def _one_text(layers: Sequence[AttentionMap], sample: int) -> dict[str, Any]:
    text = _tokens(layers[0])[1].labels(sample)
    for layer in layers:
        if [axis.labels(sample) for axis in _tokens(layer)] != [text, text]:
            msg = (
                f"BertViz draws one text that attends to itself, and {layer!r} has other queries or keys than the keys"
                f" of {layers[0]!r}; choose layers of one forward pass over the whole text."
            )
            raise ShapeError(msg)
    kept = real(_tokens(layers[0])[1], sample)
    attention = _alike({"attention": [_cut(layer, sample, kept, kept) for layer in layers]})
    segments = _tokens(layers[0])[1].segments(sample)
    second = next((place for place, position in enumerate(kept) if segments[position] == 1), None)
    pair = {} if second is None else {"sentence_b_start": second}
    return {**attention, "tokens": [text[position] for position in kept], **pair}


def _tokens(layer: AttentionMap) -> tuple[Tokens, Tokens]:
    return tokens_of(layer, "or leave the layer out: BertViz draws texts")


def _cut(layer: AttentionMap, sample: int, rows: Sequence[int], columns: Sequence[int]) -> torch.Tensor:
    return layer[sample, :, list(rows)][..., list(columns)].detach().cpu()[None]


def _alike(attention: dict[str, list[torch.Tensor]]) -> dict[str, list[torch.Tensor]]:
    """Return the layers, after a check that those of each kind can be stacked, as BertViz does."""
    for name, layers in attention.items():
        heads = sorted({layer.shape[1] for layer in layers})
        if len(heads) > 1:
            msg = f"BertViz draws layers with equal numbers of heads, and those of {name} have {heads}; choose some."
            raise ShapeError(msg)
    return attention
