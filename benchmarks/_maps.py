"""The methods of getting all attention maps of a model that `maps` compares, and the process in which each runs.

A process runs one way on one model. It tells how much memory the first run needed and whether what it got is right, and
then runs once whenever it is asked to, and tells the time.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from _turns import serve

LAYERS: Final = 12
PEERS: Final = ("AnyCapture", "nnsight", "torchlens")

Inputs = dict[str, torch.Tensor]
# What is timed: returns the model's output, None if the method does not return it, and what it holds of the maps.
Run = Callable[[], tuple[Any, Any]]


@dataclass(frozen=True)
class Case:
    """One model with one input.

    Parameters
    ----------
    title : str
        How the page calls it.
    family : str
        ``"vit"`` or ``"bert"``.
    batch, size : int
        Of the input: the side of an image in pixels, or the number of tokens.
    rounds : int
        How often each way is timed.
    goal : float
        The largest error that our maps may have.
    eager : str
        The way by which the unfused model itself returns its maps: what reading all of ours is compared with.
    """

    title: str
    family: str
    batch: int
    size: int
    rounds: int
    goal: float
    eager: str

    def model(self, *, fused: bool) -> Any:
        """Return the model, its parameters the same each time, every one of them perturbed."""
        from anylocal.testing import perturb

        torch.manual_seed(0)
        return perturb(vit(fused=fused) if self.family == "vit" else bert(fused=fused)).eval()

    def inputs(self) -> Inputs:
        """Return the input, the same each time."""
        generator = torch.Generator().manual_seed(1)
        if self.family == "vit":
            return {"x": torch.randn(self.batch, 3, self.size, self.size, generator=generator)}
        return {"input_ids": torch.randint(0, 30_000, (self.batch, self.size), generator=generator)}

    @property
    def map_size(self) -> tuple[int, int]:
        """The heads and the positions of a map."""
        return (6, (self.size // 16) ** 2 + 1) if self.family == "vit" else (12, self.size)

    def layers(self, model: Any) -> Iterable[Any]:
        """Yield the attention modules of the model, or of the model in a wrapper."""
        if self.family == "vit":
            return [block.attn for block in model.blocks]
        return [layer.attention.self for layer in model.encoder.layer]

    def capture(self, model: Any, **options: Any) -> Any:
        """Return our scope."""
        if self.family == "vit":
            from anylocal_vit import capture_attention

            return capture_attention(model, **options)
        from anylocal_bert import capture_attention as capture_bert

        return capture_bert(model, **options)


def vit(*, fused: bool) -> Any:
    """Return timm's ViT-S/16."""
    import timm

    timm.layers.set_fused_attn(fused)
    return timm.create_model("vit_small_patch16_224")


def bert(*, fused: bool) -> Any:
    """Return transformers' BERT of base size."""
    from transformers import BertConfig, BertModel

    # The stubs know none of the settings that every configuration takes.
    settings: dict[str, Any] = {"attn_implementation": "sdpa" if fused else "eager"}
    return BertModel(BertConfig(**settings))


CASES: Final = {
    "vit-1": Case("ViT-S/16, 1 image", "vit", 1, 224, 15, 2e-6, "hooks"),
    "vit-8": Case("ViT-S/16, 8 images", "vit", 8, 224, 5, 2e-6, "hooks"),
    "bert-128": Case("BERT-base, 128 tokens", "bert", 1, 128, 9, 1e-5, "output_attentions"),
    "bert-512": Case("BERT-base, 512 tokens", "bert", 1, 512, 5, 1e-5, "output_attentions"),
}


# The ways


def alone(_: Case, model: Any, inputs: Inputs) -> Run:
    """Run the model without getting a map."""
    return lambda: (model(**inputs), [])


def captured(case: Case, model: Any, inputs: Inputs) -> Run:
    """Capture with one capture kept open, as hooks are registered once."""
    scope = case.capture(model)
    scope.open()

    def run() -> tuple[Any, Any]:
        scope.clear()
        assert not scope.maps, "maps of the run before are still there"
        return model(**inputs), scope

    return run


def captured_anew(case: Case, model: Any, inputs: Inputs) -> Run:
    """Open and close a capture around each forward pass."""

    def run() -> tuple[Any, Any]:
        with case.capture(model) as maps:
            output = model(**inputs)
        return output, maps

    return run


def captured_read(case: Case, model: Any, inputs: Inputs) -> Run:
    """Capture, and compute every map."""
    capture = captured(case, model, inputs)

    def run() -> tuple[Any, Any]:
        output, scope = capture()
        return output, [attention.tensor() for attention in scope.maps]

    return run


def captured_rows(case: Case, model: Any, inputs: Inputs) -> Run:
    """Capture, and compute one row of every map."""
    capture = captured(case, model, inputs)

    def run() -> tuple[Any, Any]:
        output, scope = capture()
        return output, [attention[:, :, 0] for attention in scope.maps]

    return run


def captured_reduced(case: Case, model: Any, inputs: Inputs) -> Run:
    """Capture, and compute every map as the forward pass ends; query and key of each go."""
    from anylocal.attention import AttentionMap

    scope = case.capture(model, reduce=AttentionMap.tensor)
    scope.open()

    def run() -> tuple[Any, Any]:
        scope.clear()
        output = model(**inputs)
        return output, [value for values in scope.maps.reduced.values() for value in values]

    return run


def hooks(case: Case, model: Any, inputs: Inputs) -> Run:
    """Keep what hooks see: timm's dropout is called with the map, transformers' attention returns it."""
    maps: list[torch.Tensor] = []
    for layer in case.layers(model):
        if case.family == "vit":
            layer.attn_drop.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
        else:
            layer.register_forward_hook(lambda _module, _inputs, output: maps.append(output[1]))

    def run() -> tuple[Any, Any]:
        maps.clear()
        return model(**inputs), maps

    return run


def output_attentions(_: Case, model: Any, inputs: Inputs) -> Run:
    """Ask transformers for the maps."""

    def run() -> tuple[Any, Any]:
        output = model(**inputs, output_attentions=True)
        return output, output.attentions

    return run


def extract(method: str) -> Callable[[Case, Any, Inputs], Run]:
    """Use timm's own extractor."""

    def prepare(_: Case, model: Any, inputs: Inputs) -> Run:
        from timm.utils import AttentionExtract

        extractor = AttentionExtract(model, method=method)
        return lambda: (None, list(extractor(**inputs).values()))

    return prepare


def anycapture(case: Case, model: Any, inputs: Inputs) -> Run:
    """Decorate the attention's forward with AnyCapture's decorator, naming the local that is the map."""
    from anycapture import get_local

    kind = type(next(iter(case.layers(model))))
    kind.forward = get_local("attn" if case.family == "vit" else "attn_weights")(kind.forward)
    get_local.activate()

    def run() -> tuple[Any, Any]:
        get_local.clear()
        output = model(**inputs)
        return output, [value for values in get_local.cache.values() for value in values]

    return run


def nnsight(case: Case, model: Any, inputs: Inputs) -> Run:
    """Save the maps in one trace: a line of timm's source, what transformers' attention returns."""
    from nnsight import NNsight, save

    traced = NNsight(model)
    layers = case.layers(traced)

    def run_vit() -> tuple[Any, Any]:
        with traced.trace(**inputs):
            maps = save([layer.source.attn_softmax_0.output for layer in layers])
            output = save(traced.output)
        return output, maps

    def run_bert() -> tuple[Any, Any]:
        with traced.trace(**inputs):
            maps = save([layer.output[1] for layer in layers])
            output = save(traced.output)
        return output, maps

    return run_vit if case.family == "vit" else run_bert


def nnsight_operands(case: Case, model: Any, inputs: Inputs) -> Run:
    """Save query and key as the fused kernel is given them."""
    from nnsight import NNsight, save

    traced = NNsight(model)
    layers = case.layers(traced)

    def run_vit() -> tuple[Any, Any]:
        with traced.trace(**inputs):
            pairs = save([layer.source.F_scaled_dot_product_attention_0.inputs[0][:2] for layer in layers])
            output = save(traced.output)
        return output, pairs

    def run_bert() -> tuple[Any, Any]:
        with traced.trace(**inputs):
            pairs = save([layer.source.attention_interface_1.inputs[0][1:3] for layer in layers])
            output = save(traced.output)
        return output, pairs

    return run_vit if case.family == "vit" else run_bert


def torchlens_record(_: Case, model: Any, inputs: Inputs) -> Run:
    """Record every softmax, by what its documentation calls lightweight."""
    import torchlens

    def run() -> tuple[Any, Any]:
        recording = torchlens.record(model, [], inputs, save=torchlens.func("softmax"))
        return None, [record.ram_payload for record in recording]

    return run


def torchlens_trace(_: Case, model: Any, inputs: Inputs) -> Run:
    """Trace every operation, and save every softmax."""
    import torchlens

    def run() -> tuple[Any, Any]:
        trace = torchlens.trace(model, [], inputs, save=torchlens.func("softmax"))
        return None, [op.out for op in trace if op.func_name == "softmax"]

    return run


def torchlens_facets(case: Case, model: Any, inputs: Inputs) -> Run:
    """Trace every operation, and recompute the fused kernel's maps."""
    import torchlens

    own = {id(layer) for layer in case.layers(model)}
    names = [name for name, module in model.named_modules() if id(module) in own]

    def run() -> tuple[Any, Any]:
        trace = torchlens.trace(model, [], inputs, reconstruction_ready=True)
        return None, [trace.modules[name].facets["pattern"].value for name in names]

    return run


# What is held, as tensors


def as_they_are(held: Any) -> list[torch.Tensor]:
    """Return those that are there."""
    return [torch.as_tensor(value) for value in held if value is not None]


def of_scope(held: Any) -> list[torch.Tensor]:
    """Read our maps."""
    return [attention.tensor() for attention in held.maps]


def of_maps(held: Any) -> list[torch.Tensor]:
    """Read our maps."""
    return [attention.tensor() for attention in held]


def of_operands(held: Any) -> list[torch.Tensor]:
    """Compute the maps from query and key, as one would by hand."""
    return [torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1) for q, k in held]


@dataclass(frozen=True)
class Way:
    """One way to get the maps.

    Parameters
    ----------
    title : str
        How the table calls it.
    prepare : callable
        Returns what is timed.
    note : str
        What it computes.
    finish : callable
        Makes tensors of what it holds; not timed.
    families : tuple of str
        The models that it is for.
    peer : str
        The distribution that it needs besides the stack.
    row : bool
        Whether it gets the first row of each map only.
    fused : bool
        Whether it runs the model as it comes, with fused attention.
    """

    title: str
    prepare: Callable[[Case, Any, Inputs], Run]
    note: str
    finish: Callable[[Any], list[torch.Tensor]] = as_they_are
    families: tuple[str, ...] = ("vit", "bert")
    peer: str = ""
    row: bool = False
    fused: bool = True


WAYS: Final = {
    "alone": Way("the model alone", alone, "The fused model, the default; every ratio is to this one."),
    "captured": Way(
        "**anylocal**, captured, not read",
        captured,
        "The capture is opened once, as hooks are registered once. It holds q and k; the error is that of the maps when"
        " they are read afterwards.",
        of_scope,
    ),
    "captured_anew": Way(
        "**anylocal**, captured, not read, a capture for each forward pass",
        captured_anew,
        "The same, but each time the model's functions are looked up, replaced and restored as well.",
        of_maps,
    ),
    "captured_rows": Way(
        "**anylocal**, one row of each map read",
        captured_rows,
        "`maps[i][:, :, 0]`: nothing else of a map is computed.",
        row=True,
    ),
    "captured_read": Way(
        "**anylocal**, all maps read",
        captured_read,
        "The fused forward pass, then every map as a complete tensor, all of them kept, and q and k as well.",
    ),
    "captured_reduced": Way(
        "**anylocal**, all maps by `reduce=AttentionMap.tensor`",
        captured_reduced,
        "The same as the forward pass ends, without q and k: those of each map go as soon as it is computed.",
    ),
    "nnsight_operands": Way(
        "nnsight, `.source`, q and k of the kernel",
        nnsight_operands,
        "What a trace can get from a fused kernel: its inputs. The softmax is left to the user; it is not part of the"
        " time, and is computed here for the error.",
        of_operands,
        peer="nnsight",
    ),
    "facets": Way(
        "torchlens, `trace(reconstruction_ready=True)`, facet `pattern`",
        torchlens_facets,
        "Logs every operation of the forward pass and reconstructs each map.",
        peer="torchlens",
    ),
    "hooks_fused": Way("forward hooks", hooks, "On a fused model the hooks see no map."),
    "extract_hook_fused": Way(
        'timm `AttentionExtract(method="hook")`',
        extract("hook"),
        "On a fused model it returns an empty dictionary, without a warning.",
        families=("vit",),
    ),
    "extract_fx_fused": Way(
        'timm `AttentionExtract(method="fx")`',
        extract("fx"),
        "On a fused model it finds no softmax in the graph, and raises.",
        families=("vit",),
    ),
    "output_attentions_fused": Way(
        "transformers `output_attentions=True`",
        output_attentions,
        "With fused attention it returns an empty tuple, with a warning.",
        families=("bert",),
    ),
    "anycapture_fused": Way(
        "AnyCapture `@get_local`",
        anycapture,
        "In a fused forward pass the local is not bound (timm), or is None (transformers).",
        peer="AnyCapture",
    ),
    "alone_unfused": Way(
        "the model alone", alone, "The same weights with attention written out: the cost of that alone.", fused=False
    ),
    "captured_unfused": Way(
        "**anylocal**, all maps read",
        captured_read,
        "On an unfused model, the maps that it computed are recorded, or q and k.",
        fused=False,
    ),
    "hooks": Way(
        "forward hooks",
        hooks,
        "On timm's `attn_drop`, which is called with the map, or on transformers' attention, which returns it.",
        fused=False,
    ),
    "extract_hook": Way(
        'timm `AttentionExtract(method="hook")`',
        extract("hook"),
        "Returns the maps, not the output; the compared output is what the model returned internally.",
        families=("vit",),
        fused=False,
    ),
    "extract_fx": Way(
        'timm `AttentionExtract(method="fx")`',
        extract("fx"),
        "Runs a graph of the model that ends at the last softmax: somewhat less work, and no output.",
        families=("vit",),
        fused=False,
    ),
    "output_attentions": Way(
        "transformers `output_attentions=True`",
        output_attentions,
        "The way transformers provides.",
        families=("bert",),
        fused=False,
    ),
    "anycapture": Way(
        "AnyCapture `@get_local`",
        anycapture,
        "Copies each map into a NumPy array, as designed.",
        peer="AnyCapture",
        fused=False,
    ),
    "nnsight": Way(
        "nnsight, one trace, maps and output saved",
        nnsight,
        "`.source.attn_softmax_0.output` of timm's attention, `.output[1]` of transformers'.",
        peer="nnsight",
        fused=False,
    ),
    "record": Way(
        '`torchlens.record(save=torchlens.func("softmax"))`',
        torchlens_record,
        "Keeps copies of what each softmax returns, and inspects every operation to find them.",
        peer="torchlens",
        fused=False,
    ),
    "trace": Way(
        '`torchlens.trace(save=torchlens.func("softmax"))`',
        torchlens_trace,
        "The same, plus a log of every operation with its metadata, which is its purpose.",
        peer="torchlens",
        fused=False,
    ),
}


# The process


def peak() -> float:
    """Return the most memory that the process has held so far, in MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / 1e6


def forget_peak() -> None:
    """Reset the peak to what is held now, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")


def tensor_of(output: Any) -> torch.Tensor:
    """Return the tensor of a model's output."""
    tensor: torch.Tensor = output if isinstance(output, torch.Tensor) else output.last_hidden_state
    return tensor


def first_run(run: Run) -> float:
    """Return the MB that a run needed at most, beyond what was held before it."""
    forget_peak()
    before = peak()
    held = run()
    needed = peak() - before
    del held
    return needed


def tracked(run: Run) -> float:
    """Return the most MB of tensors that a run held at once, beyond those before it, as torch's allocator reports it.

    Unlike the memory of the process it is the same each time, and neither libraries nor freed memory count.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        held = run()
    del held
    assert profile.profiler is not None
    found = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    found.sort(key=lambda event: event.start_ns())
    most: int = max(itertools.accumulate((event.nbytes() for event in found), initial=0))
    return most / 1e6


def check(way: Way, model: Any, run: Run, reference: dict[str, Any]) -> dict[str, Any]:
    """Return how many maps a way gets, how wrong they are, and what it does to the output."""
    seen: list[Any] = []
    # Some do not return the model's output.
    handle = model.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    output, held = run()
    handle.remove()
    maps = way.finish(held)
    exact = [each[:, :, 0] for each in reference["maps"]] if way.row else reference["maps"]
    right = [a.shape == b.shape for a, b in zip(maps, exact, strict=False)]
    found: dict[str, Any] = {"maps": sum(right)}
    if maps and all(right):
        found["error"] = max(float((a - b).abs().max()) for a, b in zip(maps, exact, strict=False))
    if output is not None or seen:
        returned = tensor_of(seen[-1] if output is None else output)
        found["equal"] = torch.equal(returned, reference["output"])
        found["difference"] = float((returned - reference["output"]).abs().max())
    return found


@torch.no_grad()
def prepare(case: Case, way: Way, file: str) -> tuple[dict[str, Any], Callable[[], float]]:
    """Return what a way needs and gets, and what is timed."""
    model = case.model(fused=way.fused)
    run = way.prepare(case, model, case.inputs())
    megabytes = first_run(run)
    reference = torch.load(file, mmap=True)
    found = check(way, model, run, reference)
    share(model, reference["weights"])
    version = importlib.metadata.version(way.peer) if way.peer else ""
    return {"MB": megabytes, "tensors": tracked(run), "version": version, **found}, lambda: seconds(run)


def share(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Map the weights from the file that all processes share: copies would fill the memory."""
    for name, parameter in model.named_parameters():
        parameter.data = weights[name]


@torch.no_grad()
def seconds(run: Run) -> float:
    """Return how long a run takes; what it holds is released after the clock has stopped."""
    start = time.process_time()
    held = run()
    took = time.process_time() - start
    del held
    return took


@torch.no_grad()
def make_reference(case: Case, file: str) -> tuple[dict[str, Any], Callable[[], float]]:
    """Write the maps of the unfused model in float64, and the output of the fused one as it comes."""
    model = case.model(fused=False).double()
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in case.inputs().items()}
    _, maps = hooks(case, model, inputs)()
    plain = case.model(fused=True)
    output = tensor_of(plain(**case.inputs()))
    torch.save({"maps": maps, "output": output, "weights": plain.state_dict()}, file)
    return {}, lambda: 0.0


if __name__ == "__main__":
    torch.set_num_threads(1)
    _, chosen, how, target = sys.argv
    serve(
        lambda: (
            make_reference(CASES[chosen], target) if how == "reference" else prepare(CASES[chosen], WAYS[how], target)
        )
    )
