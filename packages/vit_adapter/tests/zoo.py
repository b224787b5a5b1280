"""Compare the maps of every family of timm that computes softmax(q kᵀ) with the eager softmax in float64.

The script can write its findings to a JSON file, from which the docs make their table.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import timm
import timm.data
import torch
from torch.overrides import TorchFunctionMode

import anylocal_vit
from anylocal.attention import AttentionMap, AttentionMaps, Patches, PlacedPatches
from anylocal.testing import perturb

SOFTMAXES: Final = {torch.softmax, torch.Tensor.softmax, torch.nn.functional.softmax}
FUSED: Final = {torch.nn.functional.scaled_dot_product_attention}

LEAST_SPREAD: Final = 0.02
"""The least standard deviation of a map's weights, in units of the uniform weight: less could hide an error."""

LEAST_PLACED: Final = 0.75
"""The share of patches that must respond in their own places: deep ones of convolutional nets see their neighbours."""

Arrange = Callable[[torch.Tensor, Any], torch.Tensor]


def _one_head(softmax: torch.Tensor, _: Any) -> torch.Tensor:
    return softmax if softmax.ndim == 4 else softmax[:, None]


def _windows_second(softmax: torch.Tensor, _: Any) -> torch.Tensor:
    """(image, head, window, query, key)."""
    return softmax if softmax.ndim == 4 else torch.cat([image.transpose(0, 1) for image in softmax])


def _windows_first(softmax: torch.Tensor, _: Any) -> torch.Tensor:
    """(image, window, head, query, key)."""
    return softmax if softmax.ndim == 4 else torch.cat(list(softmax))


def _heads_in_batch(softmax: torch.Tensor, module: Any) -> torch.Tensor:
    return torch.stack([softmax[h :: module.num_heads] for h in range(module.num_heads)], 1)


def _halo(softmax: torch.Tensor, module: Any) -> torch.Tensor:
    """(image × head, window, query, key)."""
    heads = [softmax[h :: module.num_heads] for h in range(module.num_heads)]
    return torch.stack(heads, 2).flatten(0, 1)


@dataclass(frozen=True)
class Family:
    """A family, and the smallest of its models.

    Attributes
    ----------
    module : str
        The file of timm that holds it.
    model : str
        The model.
    options : dict
        Options that make the model smaller.
    arrange : callable
        From the softmax of its source to (batch, head, query, key).
    tolerance : float
        By how much a weight may differ from the one in float64.
    note : str
        Its peculiarity, for the table.
    size : int or None
        The height and width of the images, where they are smaller than the model's own.
    scale : float
        By how much its parameters are perturbed: enough for maps far from uniform, and not so much that its scores
        are too large for the precision of float32.
    """

    module: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    arrange: Arrange = lambda softmax, _: softmax
    tolerance: float = 1e-5
    note: str = ""
    size: int | None = None
    scale: float = 0.05


FAMILIES: Final = (
    Family("beit", "beit_base_patch16_224", {"depth": 3}, note="bias of relative positions"),
    Family("byoanet", "halonet26t", arrange=_halo, note="blocks of queries, overlapping blocks of keys"),
    Family("byobnet", "resnet50_clip", note="attention pool of a convolutional network"),
    Family("cait", "cait_xxs24_224", {"depth": 4}, note="talking heads; class attention", scale=0.1),
    Family("convit", "convit_tiny", {"depth": 12}, note="gated positional attention"),
    Family("cpubone", "cpubone_nano"),
    Family("crossvit", "crossvit_tiny_240", note="two scales; class attention across them"),
    Family("csatv2", "csatv2", note="also attention of images with each other, which has no map"),
    Family("davit", "davit_tiny", note="windows; channel attention has no map"),
    Family("deepseek_vit", "deepseek_vit_412m", {"depth": 2}),
    Family("deit", "deit_tiny_distilled_patch16_224", note="class and distillation tokens"),
    Family("efficientformer", "efficientformer_l1"),
    Family("efficientformer_v2", "efficientformerv2_s0", note="talking heads; queries pooled"),
    Family("efficientvit_msra", "efficientvit_m0", note="a softmax for each head, in a loop; windows"),
    Family("eva", "vit_tiny_patch16_dinov3_qkvb", note="rotary positions; registers"),
    Family("fastvit", "fastvit_mci0"),
    Family("gcvit", "gcvit_xxtiny", note="windows; queries of the whole image"),
    Family("gemma4_vit", "gemma4_vit_167m", {"depth": 2}, note="scale 1", size=384),
    Family("hiera", "hiera_tiny_224", arrange=_windows_second, note="patches unrolled; windows; queries pooled"),
    Family("hieradet_sam2", "sam2_hiera_tiny", note="windows; queries pooled", size=256),
    Family("iformer", "iformer_t", arrange=_one_head, note="one head"),
    Family("levit", "levit_128s", note="bias of positions; queries pooled"),
    Family("lowformer", "lowformer_b0"),
    Family("maxxvit", "maxvit_rmlp_pico_rw_256", note="windows and strided windows"),
    Family("metaformer", "caformer_s18"),
    Family("mobilenetv3", "mobilenetv4_hybrid_medium_075", note="one key head; keys pooled"),
    Family("mobilenetv5", "mobilenetv5_base", note="one key head"),
    Family("mobilevit", "mobilevit_xxs", note="strided windows"),
    Family("mvitv2", "mvitv2_tiny", note="queries and keys pooled; bias of relative positions"),
    Family("naflexvit", "naflexvit_base_patch16_parfac_gap", {"depth": 3}, note="registers; images of any size"),
    Family("nest", "nest_tiny", arrange=_windows_second, note="blocks"),
    Family("nextvit", "nextvit_small", note="keys are runs of patches, across rows"),
    Family("pit", "pit_ti_224", note="pooled from stage to stage"),
    Family("pvt_v2", "pvt_v2_b0", note="keys pooled"),
    Family("qwen3_vit", "qwen3_vit_88m", {"depth": 2}, size=256),
    Family("shvit", "shvit_s1", arrange=_one_head, note="one head"),
    Family("swin_transformer", "swin_tiny_patch4_window7_224", note="shifted windows"),
    Family("swin_transformer_v2", "swinv2_tiny_window8_256", note="shifted windows; cosine attention"),
    Family("swin_transformer_v2_cr", "swinv2_cr_tiny_224", note="shifted windows; cosine attention"),
    Family("tiny_vit", "tiny_vit_5m_224", note="windows"),
    Family("tnt", "tnt_s_legacy_patch16_224", {"depth": 3}, note="pixels within patches, and patches"),
    Family("twins", "twins_svt_small", arrange=_windows_first, note="windows; keys pooled"),
    Family("visformer", "visformer_tiny"),
    Family("vision_transformer", "test_vit"),
    Family("vision_transformer_hybrid", "vit_tiny_r_s16_p8_224"),
    Family(
        "vision_transformer_relpos", "vit_relpos_small_patch16_224", {"depth": 3}, note="bias of relative positions"
    ),
    Family("vision_transformer_sam", "samvit_base_patch16_224", {"depth": 3}, _heads_in_batch, note="windows"),
    Family("vitamin", "vitamin_small_224"),
    Family("volo", "volo_d1_224", note="class attention; outlook attention has no map"),
    Family("xcit", "xcit_nano_12_p8_224", note="class attention; cross-covariance attention has no map"),
)


@dataclass
class Finding:
    """The properties of one model's maps."""

    family: str
    model: str
    maps: int = 0
    fused: int = 0
    shapes: str = ""
    axes: str = ""
    error: float = math.inf
    spread: float = 0.0
    placed: str = ""
    unsupported: int = 0
    note: str = ""
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def build(family: Family) -> Any:
    """Return the model, with every parameter and statistic perturbed.

    Batch statistics are first computed with the perturbed parameters: with the initial ones, activations would grow
    from layer to layer, until weights are one or zero.
    """
    torch.manual_seed(0)
    model: Any = perturb(timm.create_model(family.model, **family.options), scale=family.scale)
    norms = [part for part in model.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    if norms:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            model(images(model, family, batch=4))
        for norm in norms:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean += family.scale * torch.randn_like(norm.running_mean) * norm.running_var.sqrt()
            norm.running_var *= 1 + family.scale * torch.rand_like(norm.running_var)
    return model.eval()


def images(model: Any, family: Family, batch: int = 2) -> torch.Tensor:
    """Return images of the size that the model takes."""
    size = timm.data.resolve_model_data_config(model)["input_size"]
    if family.size is not None:
        size = (size[0], family.size, family.size)
    return torch.randn(batch, *size, generator=torch.Generator().manual_seed(1))


class Tracer(TorchFunctionMode):
    """Records every softmax and every call of the fused kernel, by the innermost module around it."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.open: list[str] = []
        self.softmaxes: list[tuple[str, torch.Tensor]] = []
        self.fused: list[str] = []

    def __enter__(self) -> Self:
        self.handles = []
        for name, module in self.model.named_modules():
            if isinstance(module, torch.nn.Softmax):
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
        result = func(*args, **(kwargs or {}))
        where = self.open[-1] if self.open else ""
        if func in SOFTMAXES:
            self.softmaxes.append((where, result.detach().clone()))
        elif func in FUSED:
            self.fused.append(where)
        return result


def eager_maps(model: Any, inputs: torch.Tensor, names: Sequence[str], family: Family) -> list[torch.Tensor]:
    """Return each layer's softmax in float64, computed from the layer's own input by an unfused copy."""
    found: list[torch.Tensor] = []

    def record(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        double = copy.deepcopy(module).double()
        for hooks in (part._forward_pre_hooks for part in double.modules()):
            hooks.clear()
        for part in double.modules():
            if hasattr(part, "fused_attn"):
                part.fused_attn = False
            # Tensors that are attributes, not buffers.
            vars(part).update({name: _double(value) for name, value in vars(part).items() if torch.is_tensor(value)})
        with Tracer(double) as tracer, torch.no_grad():
            double(*map(_double, arguments), **{name: _double(value) for name, value in keywords.items()})
        own = [softmax for where, softmax in tracer.softmaxes if where == ""]
        whole = torch.stack(own, 1) if family.module == "efficientvit_msra" else own[0]
        found.append(family.arrange(whole, module))

    handles = [
        model.get_submodule(name).register_forward_pre_hook(record, with_kwargs=True) for name in dict.fromkeys(names)
    ]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return found


def _double(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.double()
    return (
        type(value)(map(_double, value))
        if isinstance(value, (tuple, list)) and not hasattr(value, "_fields")
        else value
    )


def check(family: Family) -> Finding:
    """Capture the default model of a family, and compare."""
    start = time.perf_counter()
    finding = Finding(family.module, family.model, note=family.note)
    model = build(family)
    inputs = images(model, family)
    codes = {function: function.__code__ for function in anylocal_vit.adapter.functions()}
    with torch.no_grad():
        with Tracer(model) as tracer:
            alone = model(inputs)
        alone = model(inputs)
        with anylocal_vit.capture_attention(model) as maps:
            captured = model(inputs)
    finding.wrong += [] if _same(alone, captured) else ["the output differs"]
    finding.wrong += [] if all(f.__code__ is code for f, code in codes.items()) else ["code not restored"]
    computing = {*tracer.fused, *(where for where, _ in tracer.softmaxes)}
    missed = computing - set(maps.names) - set(maps.unsupported)
    finding.wrong += [f"no map of {', '.join(sorted(missed))}"] if missed else []
    _describe(finding, maps)
    _compare(finding, maps, eager_maps(model, inputs, maps.names, family))
    if finding.spread < LEAST_SPREAD:
        finding.wrong.append("maps all but uniform")
    if finding.error > family.tolerance:
        finding.wrong.append(f"off by {finding.error:.1e}")
    hits, asked = placed(model, inputs, maps)
    finding.placed = f"{hits} of {asked}"
    if hits < LEAST_PLACED * asked:
        finding.wrong.append(f"only {hits} of {asked} patches lie where they say")
    finding.seconds = round(time.perf_counter() - start, 1)
    return finding


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(_same, one, other))
    return torch.equal(one, other)


def _describe(finding: Finding, maps: AttentionMaps) -> None:
    finding.maps, finding.fused, finding.unsupported = (
        len(maps),
        sum(item.fused for item in maps),
        len(maps.unsupported),
    )
    finding.shapes = "; ".join(dict.fromkeys(_shape(item) for item in maps))
    finding.axes = "; ".join(dict.fromkeys(_axes(item) for item in maps))
    for item in maps:
        if (len(item.queries), len(item.keys)) != item.shape[2:]:
            finding.wrong.append(f"the axes of {item.name} count others")
        if "Axis(" in _axes(item):
            finding.wrong.append(f"the axes of {item.name} are only counted")


def _shape(item: AttentionMap) -> str:
    batch, heads, queries, keys = item.shape
    windows = f" × {item.windows}" if item.windows > 1 else ""
    return f"{batch // item.windows}{windows}, {heads}, {queries}, {keys}"


def _axes(item: AttentionMap) -> str:
    return _axis(item.keys) if item.queries == item.keys else f"{_axis(item.queries)} → {_axis(item.keys)}"


def _axis(axis: Any) -> str:
    if isinstance(axis, (Patches, PlacedPatches)):
        prefix = f"{len(axis.prefix)} + " if axis.prefix else ""
        windows = f" in {axis.windows} windows" if isinstance(axis, PlacedPatches) and axis.windows > 1 else ""
        return f"{prefix}{axis.grid[0]} × {axis.grid[1]}{windows}"
    return ", ".join(axis.names) if hasattr(axis, "names") else repr(axis)


def _compare(finding: Finding, maps: AttentionMaps, expected: Sequence[torch.Tensor]) -> None:
    if [tuple(item.shape) for item in expected] != [item.shape for item in maps]:
        finding.wrong.append(f"shapes {[tuple(e.shape) for e in expected]} expected")
        return
    finding.error = max(
        float((item.tensor().double() - softmax).abs().max()) for item, softmax in zip(maps, expected, strict=True)
    )
    finding.spread = min(float(item.tensor().std() * item.shape[-1]) for item in maps if item.shape[-1] > 1)
    for item in maps:
        rows = item.tensor().double().sum(-1)
        if not torch.allclose(rows, torch.ones_like(rows), atol=1e-5, rtol=0):
            finding.wrong.append(f"rows of {item.name} do not sum to 1")


# The places of patches are checked by their response: the image is changed in one patch, and in the scores, whose
# softmax is the map, that patch's column (and row) must change most.


def placed(model: Any, inputs: torch.Tensor, maps: AttentionMaps, most: int = 4) -> tuple[int, int]:
    """Return how many patches respond in their own places, in the first layer of each kind, and how many were tried.

    A neighbour counts as well: patches of convolutional stems overlap.
    """
    firsts: dict[Any, int] = {}
    for position, item in enumerate(maps):
        if isinstance(item.keys, (Patches, PlacedPatches)):
            firsts.setdefault((item.name.split(".")[0:2], item.keys).__repr__(), position)
    hits = asked = 0
    generator = torch.Generator().manual_seed(2)
    for position in list(firsts.values())[:6]:
        keys = maps[position].keys
        rows, columns = keys.grid  # type: ignore[attr-defined]  # patches have one
        for _ in range(most):
            cell = (
                int(torch.randint(rows, (), generator=generator)),
                int(torch.randint(columns, (), generator=generator)),
            )
            answering = _answering(model, inputs, maps[position], position, cell)
            asked += 1
            hits += answering is not None and max(abs(a - b) for a, b in zip(answering, cell, strict=True)) <= 1
    return hits, asked


def _answering(model: Any, inputs: torch.Tensor, item: AttentionMap, position: int, cell: tuple[int, int]) -> Any:
    """Return the cell whose column changes most when the image changes in one cell."""
    keys: Any = item.keys
    (height, width), (rows, columns) = inputs.shape[2:], keys.grid
    top, bottom = cell[0] * height // rows, -(-(cell[0] + 1) * height // rows)
    left, right = cell[1] * width // columns, -(-(cell[1] + 1) * width // columns)
    changed = inputs[:1].clone()
    changed[:, :, top:bottom, left:right] += 0.5
    with torch.no_grad(), anylocal_vit.capture_attention(model, modules=lambda name, _: name == item.name) as maps:
        model(inputs[:1])
        model(changed)
    before, after = (part.tensor().double().clamp_min(1e-30).log() for part in maps[: 2 * len(maps) : len(maps) // 2])
    seen = (before > -60) & (after > -60)
    change = (after - before).masked_fill(~seen, 0)
    # A change that all of a row shares is the softmax's normalisation.
    shared = change.sum(-1, keepdim=True) / seen.sum(-1, keepdim=True).clamp_min(1)
    columns_change = (change - shared).masked_fill(~seen, 0).abs().sum((1, 2))  # (window, key)
    columns_change = columns_change / seen.double().sum((1, 2)).clamp_min(1)
    columns_change[:, : len(keys.prefix)] = 0
    window, key = divmod(int(columns_change.argmax()), columns_change.shape[1])
    return keys.cell(key, window) if isinstance(keys, PlacedPatches) else keys.cell(key)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the families, and return 1 if any is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help="such as swin_transformer (default: all)")
    parser.add_argument("--json", type=Path, help="the file for the findings")
    options = parser.parse_args(arguments)
    chosen = [family for family in FAMILIES if not options.families or family.module in options.families]
    found: list[Finding] = []
    for number, family in enumerate(chosen, 1):
        try:
            finding = check(family)
        except Exception as error:  # noqa: BLE001  # the other families are checked all the same
            finding = Finding(family.module, family.model, wrong=[f"{type(error).__name__}: {error}"])
        found.append(finding)
        verdict = "; ".join(finding.wrong) or "right"
        print(  # noqa: T201  # a script
            f"{number:2} of {len(chosen)}  {family.module:26} {finding.maps:3} maps, {finding.fused:3} fused,"
            f" error {finding.error:.1e}, spread {finding.spread:.1e}, placed {finding.placed:9}"
            f" {finding.seconds:5.1f} s  {verdict}",
            flush=True,
        )
    if options.json is not None:
        about = {"timm": timm.__version__, "torch": torch.__version__, "python": sys.version.split()[0]}
        options.json.write_text(json.dumps({**about, "families": [asdict(one) for one in found]}, indent=1) + "\n")
    return int(any(finding.wrong for finding in found))


if __name__ == "__main__":
    sys.exit(main())
