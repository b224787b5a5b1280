"""Every type of transformers' AutoModel: its maps against the softmax in float64 of the inputs of each layer.

`zoo.py` runs it over all of them.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import re
import signal
import sys
import time
import warnings
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import torch
import transformers
from torch.overrides import TorchFunctionMode
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

import anylocal_bert
from anylocal.errors import AnylocalError
from anylocal.testing import perturb

from .dummies import inputs
from .tiny import configuration, model_of, size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from anylocal.attention import AttentionMap

SOFTMAXES: Final = {torch.softmax, torch.Tensor.softmax, torch.nn.functional.softmax, torch.special.softmax}
FUSED: Final = torch.nn.functional.scaled_dot_product_attention
MULTI_HEAD: Final = torch.nn.functional.multi_head_attention_forward

TOLERANCE: Final = 1e-5
LEAST_SPREAD: Final = 0.02
"""Standard deviation of a map's weights, in units of the uniform weight, under which an error could hide."""
SCALES: Final = (0.3, 0.1, 0.05, 0.02, 1.0)
"""By how much parameters are perturbed: the first that makes maps far from uniform, with scores not too large."""
MOST_PARAMETERS: Final = 3e8
SECONDS: Final = 60

_NAMES: Final = (
    "bert roberta distilbert albert electra camembert xlm-roberta mpnet deberta deberta-v2 mobilebert convbert"
    " squeezebert layoutlm layoutlmv3 tapas esm modernbert eurobert nomic_bert longformer big_bird bigbird_pegasus gpt2"
    " llama qwen2 qwen3 gemma gemma2 gemma3_text mistral phi phi3 opt falcon bloom t5 bart mbart marian whisper vit"
    " deit dinov2 dinov3_vit clip siglip beit xlnet funnel gpt_oss xlm-roberta-xl gpt_neox gptj gpt_neo codegen olmo2"
    " cohere starcoder2 mixtral wav2vec2 hubert blip pegasus swin"
)
GATE: Final = (*_NAMES.split(),)
"""Types that must be exact."""

# Softmaxes along the last axis that relate no query to a key: those that choose experts or code words.
_NO_ATTENTION: Final = re.compile(
    r"router|gate|gating|moe|expert|topk|quantiz|classif|mixture|SparseMoe|codebook|decoder_output|Selective|HyperConnection",
    re.IGNORECASE,
)


# Types that zero the rows of padding after the softmax.
_EMPTIES_ROWS: Final = {"longformer", "led", "sew-d"}


@dataclass
class Finding:
    """The result of checking the maps of one type."""

    type: str
    maps: int = 0
    fused: int = 0
    error: float | None = None
    spread: float | None = None
    axes: str = ""
    given: str = ""
    verdict: str = ""
    note: str = ""
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether the type has maps, and all of them are right."""
        return self.maps > 0 and not self.wrong


@dataclass(frozen=True)
class Seen:
    """A softmax that ran: its module, and its weights in float64."""

    where: str
    kind: str
    softmax: torch.Tensor


def fused_softmax(  # noqa: PLR0917  # the kernel's own signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,  # the kernel's own signature
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,  # the kernel's own signature
    is_causal: bool = False,  # the kernel's own signature
    scale: float | None = None,
    enable_gqa: bool = False,  # the kernel's own signature
) -> torch.Tensor:
    """Return the softmax of the fused kernel in float64, according to its documentation."""
    q, k = query.double(), key.double()
    if enable_gqa:
        k = k.repeat_interleave(q.shape[-3] // k.shape[-3], -3)
    scores = q @ k.transpose(-1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if is_causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -math.inf)
    if attn_mask is not None:
        masked = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -math.inf) if masked else scores + attn_mask.double()
    # A row without any key is 0.
    return scores.softmax(-1).nan_to_num(0.0)


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


class Tracer(TorchFunctionMode):
    """Record every softmax along the last axis and every fused kernel call, with the innermost module."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.open: list[str] = [""]
        self.seen: list[Seen] = []

    def __enter__(self) -> Self:
        self.handles = []
        for name, module in self.model.named_modules():
            if type(module).__name__.endswith("Softmax"):
                continue
            self.handles.append(module.register_forward_pre_hook(lambda *_, name=name: self.open.append(name)))
            self.handles.append(module.register_forward_hook(lambda *_: self.open.pop() and None))
        super().__enter__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for handle in self.handles:
            handle.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func is FUSED:
            self._note("fused", fused_softmax(*args, **named))
        elif func is MULTI_HEAD:
            wanted = {**named, "need_weights": True, "average_attn_weights": False}
            double = {name: _double(value) for name, value in wanted.items()}
            softmax = func(*map(_double, args), **double)[1]
            assert softmax is not None
            self._note("multihead", softmax)
        elif func in SOFTMAXES:
            scores = args[0] if args else named["input"]
            axis = named.get("dim", args[1] if len(args) > 1 else None)
            if axis in {-1, scores.ndim - 1} and scores.ndim > 2:  # (…, query, key)
                self._note("softmax", scores.double().softmax(-1))
        return func(*args, **named)

    def _note(self, kind: str, softmax: torch.Tensor) -> None:
        self.seen.append(Seen(self.open[-1], kind, softmax.detach()))


def build(model_type: str, level: int, scale: float) -> Any:
    """Return the model, with every parameter and statistic perturbed."""
    model = perturb(model_of(model_type, configuration(model_type, level)), scale=scale).eval()
    for name, statistic in model.named_buffers():
        if name.endswith("running_var"):
            statistic.abs_().clamp_(min=0.1)
    return model


def run(model: Any, given: dict[str, Any]) -> Any:
    """Run a model, with the same random numbers each time."""
    torch.manual_seed(0)
    with torch.no_grad():
        return model(**given)


def check(model_type: str) -> Finding:
    """Capture a type and compare its maps."""
    start = time.perf_counter()
    finding = Finding(model_type)
    try:
        level, given = runs(model_type)
    except _CannotRunError as error:
        finding.verdict, finding.note = "not run", str(error)
        return finding
    for scale in SCALES:
        attempt = Finding(model_type, given=", ".join(given))
        try:
            _compare(attempt, build(model_type, level, scale), given)
        except TimeoutError:
            raise
        except Exception as error:  # noqa: BLE001  # any error is a finding
            attempt.wrong.append(f"{type(error).__name__}: {error}")
        if finding.verdict == "" or _rank(attempt) < _rank(finding):
            finding = attempt
        if not finding.wrong:
            break
    finding.seconds = round(time.perf_counter() - start, 1)
    return finding


def _rank(finding: Finding) -> tuple[int, float]:
    return len(finding.wrong), finding.error or 0.0


class _CannotRunError(Exception):
    """No tiny model of the type could be built and run."""


def runs(model_type: str) -> tuple[int, dict[str, Any]]:
    """Return the level of a tiny configuration that runs, and its inputs."""
    why: list[str] = []
    for level in (0, 1, 2):
        try:
            if size(configuration(model_type, level)) > MOST_PARAMETERS:
                why.append("too large")
                continue
            model = model_of(model_type, configuration(model_type, level))
        except Exception as error:  # noqa: BLE001  # whatever prevents building it
            why.append(_short(error))
            continue
        for given in _different(inputs(model)):
            try:
                run(model, given)
            except TimeoutError:
                raise
            except Exception as error:  # noqa: BLE001  # whatever prevents running it
                why.append(_short(error))
            else:
                return level, given
    raise _CannotRunError("; ".join(dict.fromkeys(why[:3])) or "no input is known for it")


def _different(sets: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Yield each set of inputs of one kind and size once."""
    known: set[str] = set()
    for given in sets:
        kind = repr({name: getattr(value, "shape", value) for name, value in given.items()})
        if kind not in known:
            known.add(kind)
            yield given


def _short(error: BaseException, most: int = 160) -> str:
    # Where transformers is installed is irrelevant to a table.
    text = re.sub(r"/\S*/site-packages/", "", " ".join(f"{type(error).__name__}: {error}".split()))
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _compare(finding: Finding, model: Any, given: dict[str, Any]) -> None:
    with Tracer(model) as tracer:
        run(model, given)
    without = set(anylocal_bert.adapter.unsupported(model))
    seen = [item for item in tracer.seen if item.where not in without and not _is_no_attention(model, item)]
    alone = run(model, given)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with anylocal_bert.capture_attention(model) as maps:
                captured = run(model, given)
    except AnylocalError as error:
        finding.note = _short(error, 400)
        finding.verdict = "no map, said so" if not seen else "refused"
        finding.wrong += [f"{len(seen)} maps refused"] if seen else []
        return
    finding.maps, finding.fused = len(maps), sum(item.fused for item in maps)
    finding.axes = "; ".join(dict.fromkeys(_axes(item) for item in maps))
    finding.wrong += [] if _same(alone, captured) else ["the output differs"]
    if said and not len(maps):
        finding.note = _short(said[0].message, 400) if isinstance(said[0].message, Warning) else ""
    for item in maps:
        if (len(item.queries), len(item.keys)) != item.shape[2:]:
            finding.wrong.append(f"the axes of {item.name} count others")
    _against(finding, maps, seen, model)
    finding.verdict = "exact" if finding.exact else "no map" if not seen and not len(maps) else "wrong"


def _against(finding: Finding, maps: Iterable[AttentionMap], seen: Sequence[Seen], model: Any) -> None:
    by_name: dict[str, deque[Seen]] = {}
    for one in _assembled(seen, model):
        by_name.setdefault(one.where, deque()).append(one)
    errors, spreads = [0.0], [math.inf]
    for item in maps:
        queue = by_name.get(item.name)
        if not queue:
            finding.wrong.append(f"{item.name} ran no softmax that was seen")
            continue
        expected = arranged(queue.popleft(), item)
        if expected is not None and finding.type in _EMPTIES_ROWS:
            expected = expected.masked_fill(item.tensor().sum(-1, keepdim=True) == 0, 0.0)
        if expected is None or item.shape[1] not in _heads(model.get_submodule(item.name), item.shape[1]):
            finding.wrong.append(f"{item.name} has shape {item.shape}, another was seen")
            continue
        got = item.tensor().double()
        errors.append(float((got - expected).abs().max()))
        if item.shape[-1] > 1:
            spreads.append(float(got.std() * item.shape[-1]))
    missed = {(type(model.get_submodule(name)).__name__, queue[0].kind) for name, queue in by_name.items() if queue}
    finding.wrong += [f"no map of {cls} ({kind})" for cls, kind in sorted(missed)]
    finding.error = max(errors) if not any(map(math.isnan, errors)) else math.inf
    finding.spread = min(spreads) if min(spreads) < math.inf else None
    if finding.error > TOLERANCE:
        finding.wrong.append(f"off by {finding.error:.1e}")
    if finding.spread is not None and finding.spread < LEAST_SPREAD:
        finding.wrong.append("maps all but uniform")
    finding.wrong = list(dict.fromkeys(finding.wrong))[:6]


def _heads(module: Any, otherwise: int) -> set[int]:
    """Return the numbers of heads that a module has as attributes."""
    names = ("num_heads", "num_attention_heads", "n_heads", "n_head", "attention_heads")
    return {count for name in names if isinstance(count := getattr(module, name, None), int)} or {otherwise}


def arranged(seen: Seen, item: AttentionMap) -> torch.Tensor | None:
    """Return a softmax as (batch, head, query, key), None if its rows or columns do not match."""
    softmax = seen.softmax
    if softmax.shape == item.shape:
        return softmax
    if softmax.ndim == 4 and softmax.shape[1] == item.shape[2] and softmax.shape[2] == item.shape[1]:  # banded
        return _whole(softmax, item)
    if softmax.shape[-1] == item.shape[-1] + 1:
        # The last column is the sink's.
        softmax = softmax[..., :-1]
    if softmax.ndim == 5:  # windows and heads, in either order
        first, second = softmax.flatten(0, 1), softmax.transpose(1, 2).flatten(0, 1)
        softmax = first if first.shape == item.shape else second
    if softmax.shape[-2:] != item.shape[-2:] or softmax.numel() != math.prod(item.shape):
        return None
    return softmax.reshape(item.shape)


def _whole(band: torch.Tensor, item: AttentionMap) -> torch.Tensor:
    """Return the map of a band, (batch, query, head, key within the window)."""
    reach = band.shape[-1] // 2
    whole = torch.zeros(item.shape, dtype=band.dtype)
    for query in range(item.shape[2]):
        for step in range(-reach, reach + 1):
            if 0 <= query + step < item.shape[3]:
                whole[:, :, query, query + step] = band[:, query, :, step + reach]
    return whole


_PARTS: Final = 5
"""Softmaxes of one map by blocks: the first, the second, those between, the last but one, and the last."""


def _assembled(seen: Sequence[Seen], model: Any) -> Iterator[Seen]:
    """Yield each softmax seen; those of attention by blocks as a single one."""
    parts: dict[str, list[torch.Tensor]] = {}
    for one in seen:
        module = model.get_submodule(one.where)
        if not type(module).__name__.endswith("BlockSparseAttention"):
            yield one
            continue
        own = parts.setdefault(one.where, [])
        own.append(one.softmax)
        if len(own) == _PARTS:
            yield Seen(one.where, one.kind, by_blocks(parts.pop(one.where), module.num_random_blocks))


def by_blocks(parts: Sequence[torch.Tensor], random: int) -> torch.Tensor:
    """Return the map of the five softmaxes of BigBird outside training, according to its documentation.

    All random blocks are then the first one, so that a key has several weights.
    """
    first, second, between, second_last, last = parts
    size, count = first.shape[2], first.shape[3] // first.shape[2]
    zeros = [0] * random
    rows: list[tuple[torch.Tensor, list[int]]] = [(second, [0, 1, 2, count - 1, *zeros])]
    for number, block in enumerate(range(2, count - 2)):
        rows.append((between[:, :, number], [0, block - 1, block, block + 1, *zeros, count - 1]))
    rows.append((second_last, [0, count - 3, count - 2, count - 1, *zeros]))
    whole = [first]
    for weights, blocks in rows:
        row = torch.zeros(*first.shape, dtype=first.dtype)
        for place, block in enumerate(blocks):
            row[..., block * size : (block + 1) * size] += weights[..., place * size : (place + 1) * size]
        whole.append(row)
    return torch.cat([*whole, last], dim=2)


def _is_no_attention(model: Any, seen: Seen) -> bool:
    part = type(model.get_submodule(seen.where)).__name__
    if seen.kind != "softmax" or part.endswith("Attention"):
        return False
    return bool(_NO_ATTENTION.search(part) or _NO_ATTENTION.search(seen.where.rpartition(".")[2]))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) or bool(torch.isnan(one).any())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(_same, one, other))
    return True


def _axes(item: AttentionMap) -> str:
    return _axis(item.keys) if item.queries == item.keys else f"{_axis(item.queries)} → {_axis(item.keys)}"


def _axis(axis: Any) -> str:
    grid = getattr(axis, "grid", None)
    return type(axis).__name__ if grid is None else f"{len(axis.prefix)} + {grid[0]} × {grid[1]}"


def _stop(*_: object) -> None:
    raise TimeoutError(f"took longer than {SECONDS} s")


def _in_time(model_type: str) -> Finding:
    """Check a type within the time limit."""
    signal.alarm(SECONDS)
    try:
        return check(model_type)
    except BaseException as error:  # noqa: BLE001  # the other types are checked all the same
        return Finding(model_type, verdict="not run", note=_short(error))
    finally:
        signal.alarm(0)


def quietly() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _stop)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers leaves it untyped


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the types, and return 1 if a type of the gate is not exact."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", help='such as modernbert, or "gate" (default: all)')
    parser.add_argument("--json", type=Path, help="where to write the findings")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    chosen = options.types or sorted(MODEL_MAPPING_NAMES)
    chosen = list(GATE) if chosen == ["gate"] else chosen
    found: list[Finding] = []
    # The imports of a first check are shared by all forked processes.
    quietly()
    check("bert")
    with multiprocessing.get_context("fork").Pool(options.processes, quietly, maxtasksperchild=40) as pool:
        for number, finding in enumerate(pool.imap_unordered(_in_time, chosen), 1):
            found.append(finding)
            error = "" if finding.error is None else f"error {finding.error:.1e}"
            print(  # noqa: T201  # a script
                f"{number:3} of {len(chosen)}  {finding.type:28} {finding.maps:3} maps, {finding.fused:3} fused,"
                f" {error:14} {finding.seconds:5.1f} s  {finding.verdict}: {'; '.join((*finding.wrong, finding.note))}",
                flush=True,
            )
    found.sort(key=lambda finding: finding.type)
    if options.json is not None:
        about = {"transformers": transformers.__version__, "torch": torch.__version__, "python": sys.version.split()[0]}
        options.json.write_text(json.dumps({**about, "types": [asdict(one) for one in found]}, indent=1) + "\n")
    return int(any(finding.type in GATE and not finding.exact for finding in found))
