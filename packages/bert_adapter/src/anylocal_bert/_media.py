"""Which tokens of a text stand for which patches of the images, videos and sounds that a model was given with it.

Models put the features of an image where its text has placeholders, in order: the first feature in the place of the
first placeholder of the batch, and so on. How many features there are, and of which patches, a family's file tells of
the model's own inputs and configuration. Where both numbers differ, nothing is said of the placeholders but why.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch

from anylocal.adapter import Observation, argument_names, functions_in
from anylocal.attention import Media
from anylocal_bert._family import Run, modules_of
from anylocal_bert._sources import around
from anylocal_bert.families import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from anylocal import Call
    from anylocal.adapter import InputContext
    from anylocal_bert._family import ReadMedia

IDS: Final = "input_ids"

_GIVEN: Final = (
    *("pixel_values", "pixel_values_videos", "image_grid_thw", "video_grid_thw", "image_sizes", "batch_num_images"),
    *("vision_feature_select_strategy", "vision_aspect_ratio", "pixel_attention_mask"),
    *("input_features", "feature_attention_mask", "audio_input_features"),
    *("image_grids", "image_token_pooling", "video_grids", "video_token_pooling"),
)
"""The arguments of a model's methods that tell of media."""
_MASKS: Final = ("image_attention_mask",)
"""Those that are masks of patches, which may be of floating-point numbers."""
_PARTS: Final = {"image": "vision"}
"""What a configuration calls its part for a kind of media, where that is not the kind's name."""
_ENCODING: Final = frozenset({"get_image_features", "get_video_features", "get_audio_features"})
"""The methods that encode media; `generate` calls them itself, before the model's forward."""


def media_observations(model: torch.nn.Module) -> Iterator[Observation]:
    """Yield what records the placeholders of a text, and the sizes and grids of what they stand for."""
    kinds: Any = dict.fromkeys(type(module) for module in model.modules())
    for cls in kinds:
        methods = ("forward", *sorted(_ENCODING)) if _reader(cls) is not None else ()
        for function in (f for name in methods for f in functions_in(getattr(cls, name, None))):
            names = tuple(name for name in (IDS, *_GIVEN) if name in argument_names(function.__code__))
            masks = tuple(name for name in _MASKS if name in argument_names(function.__code__))
            if names and (IDS in names or function.__name__ in _ENCODING):
                yield Observation(function, arguments=names, keep=_kept)
                if masks:
                    yield Observation(function, arguments=masks, keep=numbers_of)


def note_input(call: Call, memory: dict[str, Any]) -> bool:
    """Return whether a call is one that `media_observations` records, and keep what was encoded."""
    if call.function.__name__ in _ENCODING:
        encoded = memory.setdefault("encoded media", {}).setdefault(call.name, {})
        encoded.update((name, value) for name, value in call.values.items() if value is not None)
        return True
    return IDS in call.values and call.function.__name__ == "forward"


def with_placeholders(ids: torch.Tensor, owner: str, context: InputContext) -> torch.Tensor:
    """Return tokens that were looked up, with the placeholders in whose stead a model may look up another token."""
    known: tuple[torch.Tensor, torch.Tensor] | None = context.memory.get("placeholders")
    # One tensor for all layers: its identity shows that they read the same text.
    if known is None or known[0] is not ids:
        given = _given(owner, context)
        fits = given is not None and _fits(given[IDS], ids, given["tokens"])
        known = context.memory["placeholders"] = ids, given[IDS] if given is not None and fits else ids
    return known[1]


def note_media(ids: torch.Tensor, start: int, owner: str, text: dict[str, Any], context: InputContext) -> None:
    """Keep in `text` the media of tokens that begin at `start`, and those of the tokens in the cache before them."""
    turn = text.get("turn")
    if text.get("media_turn") != turn:
        found = _media_of(ids, owner, context)
        text.update(media_turn=turn, media_start=None, media_before=text.get("media", (0, [], "")), media_found=found)
    if text["media_start"] == start:
        return
    count, before, why_before = text["media_before"]
    if not start or count != len(ids):
        before, why_before = [], "its texts have changed places in the cache" if start and before else ""
    before = [item for item in before if max(item.positions) < start]
    earlier = {(item.kind, item.text, item.source) for item in before}
    found, why = text["media_found"]
    for item in found:
        source = item.source + sum((item.kind, item.text) == each[:2] for each in earlier)
        before.append(replace(item.moved(start, start + ids.shape[1]), source=source))
    text.update(media_start=start, media=(len(ids), before, why or why_before))


def media_between(start: int, length: int, text: Mapping[str, Any]) -> dict[str, Any]:
    """Return the media of tokens that begin at `start`, as arguments of `Tokens`."""
    _, media, why = text.get("media", (0, [], ""))
    moved = (item.moved(-start, length) for item in media)
    return {"media": [item for item in moved if item.is_there], "media_unknown": why}


def _reader(cls: Any) -> ReadMedia | None:
    """Return how media are read off the input of a model; of an unknown one that takes images, the reason why not."""
    patterns = (pair for family in FAMILIES for pair in family.media.items())
    found = next((read for pattern, read in patterns if re.fullmatch(pattern, cls.__name__)), None)
    if found is None and {IDS, "pixel_values"} <= inspect.signature(cls.forward).parameters.keys():
        return _unknown
    return found


def _unknown(model: Any, given: Mapping[str, Any]) -> Iterator[Run | str]:
    if given.get("pixel_values") is not None:
        yield f"how {type(model).__name__} places the patches of an image in its text"


def _given(owner: str, context: InputContext) -> dict[str, Any] | None:
    """Return the latest input of the innermost model around a text that takes media, with the ids of placeholders."""
    names = (name for name in around(owner) if isinstance(context.seen.get(name, {}).get(IDS), torch.Tensor))
    name = next(names, None)
    modules = modules_of(context)
    if name not in modules or _reader(type(modules[name])) is None:
        return None
    model, about = modules[name], context.about
    known = {
        "tokens": _placeholders(getattr(model, "config", None)),
        "tokenizer": getattr(about, "tokenizer", about),
        "processor": about,
        "model": model,
    }
    return {**context.seen[name], **context.memory.get("encoded media", {}).get(name, {}), **known}


def _placeholders(config: Any) -> dict[str, int]:
    """Return the ids of the tokens that stand for media, by kind."""
    found: dict[str, int] = {}
    for kind in ("image", "video", "audio"):
        parts = (config, getattr(config, f"{_PARTS.get(kind, kind)}_config", None))
        named = (getattr(part, f"{kind}_token_{ending}", None) for part in parts for ending in ("id", "index"))
        token = next((token for token in named if isinstance(token, int)), None)
        found |= {} if token is None else {kind: token}
    return found


def _fits(given: torch.Tensor, ids: torch.Tensor, tokens: Mapping[str, int]) -> bool:
    if given.shape != ids.shape:
        return False
    stands = torch.isin(given, torch.tensor([*tokens.values()], device=given.device, dtype=given.dtype))
    return bool(((given == ids.to(given.device)) | stands).all())


def _media_of(looked_up: torch.Tensor, owner: str, context: InputContext) -> tuple[list[Media], str]:
    """Return the media of tokens, and why it is not known what other placeholders stand for."""
    given = _given(owner, context)
    if given is None or not _fits(given[IDS], looked_up, given["tokens"]):
        return [], ""
    ids: torch.Tensor = given[IDS].cpu()
    asked = {kind: ids == token for kind, token in given["tokens"].items() if bool((ids == token).any())}
    if not asked:
        return [], ""
    # The same encoded media are never given twice.
    context.memory.pop("encoded media", None)
    read = _reader(type(given["model"]))
    items = list(read(given["model"], given)) if read is not None else []
    reasons = [item for item in items if isinstance(item, str)]
    # Some models have one placeholder for several kinds, and are given one of these.
    told = {given["tokens"].get(item.kind) for item in items if isinstance(item, Run)}
    media: list[Media] = []
    for kind, stands in asked.items():
        runs = [item for item in items if isinstance(item, Run) and item.kind == kind]
        wanted, count = sum(len(run.cells) for run in runs), int(stands.sum())
        times = _repeated(stands, wanted)
        if times:
            media += _placed(runs, stands, times)
        elif runs:
            reasons.append(f"{count} tokens stand for {kind}s, whose patches are {wanted}")
        elif not reasons and given["tokens"][kind] not in told:
            reasons.append(f"{count} tokens stand for {kind}s that the model was not given")
    return media, "; ".join(dict.fromkeys(reasons))


def _repeated(stands: torch.Tensor, wanted: int) -> int:
    """Return how many copies of each text, such as beams, share what was encoded once; 0 where the numbers differ."""
    times, rest = divmod(int(stands.sum()), wanted or 1)
    if not wanted or rest or len(stands) % times or not times:
        return 0
    copies = stands.reshape(-1, times, stands.shape[1])
    return times if bool((copies == copies[:, :1]).all()) else 0


def _placed(runs: Iterable[Run], stands: torch.Tensor, times: int) -> Iterator[Media]:
    """Yield the media of runs of placeholders, which go through all texts of a batch."""
    first: dict[int, int] = {}
    places = stands[::times].nonzero().tolist()
    at = 0
    for run in runs:
        own, at = places[at : at + len(run.cells)], at + len(run.cells)
        text = own[0][0]
        first.setdefault(text, run.source)
        positions = [-1] * (run.frames or 1) * len(run.patches)
        for cell, (row, position) in zip(run.cells, own, strict=True):
            if cell >= 0 and row == text:
                positions[cell] = position
        source = run.source - first[text]
        for copy in range(times):
            yield Media(
                run.kind, positions, run.patches, source, text * times + copy, run.frames, run.view, run.seconds
            )


def _kept(value: Any) -> Any:
    """Return the numbers of tokens and of grids, and of an image only its shape."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.is_floating_point() or value.dim() > 3:  # noqa: PLR2004  # more than grids have
        return tuple(value.shape)
    return numbers_of(value)


def numbers_of(value: Any) -> Any:
    """Return the numbers of a tensor, copied if it may be in a buffer that the next forward pass is given, too."""
    if not isinstance(value, torch.Tensor):
        return value
    is_written = not torch.compiler.is_compiling() and (value.is_inference() or value._version > 0)
    return value.detach().clone() if is_written else value.detach()
