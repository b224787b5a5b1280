"""What a page shows: some layers and samples of the maps of one forward pass, their names and their images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anylocal._drawing.layers import layers_of
from anylocal._maps.bounds import inside
from anylocal._maps.layers import maps_of
from anylocal._maps.maps import AttentionMaps
from anylocal._page.describe import colours_of, describe, named, sources_of, tokens_of
from anylocal._page.pictures import Album, Key, has_images, pictures_of, tower_sources
from anylocal.errors import OptionError, ShapeError

if TYPE_CHECKING:
    from anylocal._drawing.image import ImageLike, Statistics
    from anylocal._drawing.scale import Cmap
    from anylocal._maps.map import AttentionMap
    from anylocal._maps.tokens import Tokens
    from anylocal._page.payload import Layer


@dataclass(frozen=True, eq=False)
class Shown:
    """The chosen layers, at their places among those given, and samples, and their images as data URLs.

    The images of texts are `pictures`, all others `sources`.
    """

    given: Sequence[AttentionMap]
    places: Sequence[int]
    layers: Sequence[AttentionMap]
    samples: Sequence[int]
    sources: Sequence[str]
    pictures: Mapping[Key, str]

    @classmethod
    def of(
        cls,
        maps: AttentionMap | Iterable[AttentionMap],
        caller: str,
        *,
        images: ImageLike | Sequence[ImageLike] | None,
        tokens: Sequence[str] | Sequence[Sequence[str]] | Tokens | None,
        layers: int | str | Sequence[int | str] | None,
        samples: int | Sequence[int] | None,
        mean: Statistics,
        std: Statistics,
    ) -> Shown:
        """Choose what is shown; see `anylocal.view.explore`."""
        given = layers_of(maps_of(maps, caller), caller)
        places = _places(given, layers)
        chosen = [given[at] for at in places]
        numbers = _numbers(chosen, samples)
        if tokens is not None:
            chosen = named(chosen, numbers, tokens_of(tokens))
        if images is None:
            return cls(given, places, chosen, numbers, [], {})
        if not has_images(chosen):
            return cls(given, places, chosen, numbers, sources_of(images, chosen, numbers, mean, std), {})
        of_texts = (images, chosen, numbers, mean, std)
        return cls(given, places, chosen, numbers, tower_sources(*of_texts), pictures_of(*of_texts))

    def alike(
        self,
        maps: AttentionMap | Iterable[AttentionMap],
        images: ImageLike | Sequence[ImageLike] | None,
        *,
        tokens: Sequence[str] | Sequence[Sequence[str]] | Tokens | None,
        mean: Statistics,
        std: Statistics,
    ) -> Shown:
        """Choose the same layers, by their places, and samples of other maps."""
        given = layers_of(maps_of(maps, "explore"), "explore")
        if len(given) != len(self.given):
            msg = (
                f"explore compares the same layers; the first maps have {len(self.given)} and the others {len(given)}."
            )
            raise ShapeError(msg)
        layers, samples = list(self.places), list(self.samples)
        return Shown.of(
            given, "explore", images=images, tokens=tokens, layers=layers, samples=samples, mean=mean, std=std
        )

    @property
    def size(self) -> int:
        """How many bytes of the page the images take."""
        return sum(map(len, (*self.sources, *set(self.pictures.values()))))

    @property
    def title(self) -> str:
        """The title of a page that was given none."""
        layers, heads = len(self.layers), sum(layer.shape[1] for layer in self.layers)
        return f"Attention of {layers} layer{'s' * (layers != 1)}, {heads} head{'s' * (heads != 1)}"

    def described(self, packed: Sequence[Layer], cmap: Cmap | None) -> dict[str, Any]:
        """Return all that the script needs to know, except the weights."""
        album = Album(self.pictures)
        data = describe(self.given, self.places, self.layers, self.samples, packed, album=album)
        error = max(layer.error for layer in packed)
        drawn = {"images": self.sources, "pictures": album.urls, "colours": colours_of(cmap)}
        return data | drawn | {"error": error}


def _places(given: Sequence[AttentionMap], layers: int | str | Sequence[int | str] | None) -> list[int]:
    if layers is None:
        # A vision tower has a batch of images, where the layers beside it have one of texts.
        batches = {layer.images for layer in given if has_images([layer])}
        return [at for at, layer in enumerate(given) if len(batches) != 1 or layer.images in batches]
    maps = AttentionMaps(given)
    found = [next(at for at, layer in enumerate(given) if layer is maps[name]) for name in _several(layers)]
    if not found:
        msg = f"layers={layers!r} selects none of the {len(given)} layers; select at least one."
        raise OptionError(msg)
    return found


def _several(chosen: Any) -> Iterable[Any]:
    """Return a choice as an iterable; its items are checked where they are looked up."""
    # Arrays and tensors, including scalars.
    chosen = chosen.tolist() if hasattr(chosen, "tolist") else chosen
    return chosen if isinstance(chosen, Iterable) and not isinstance(chosen, str) else [chosen]


def _numbers(layers: Sequence[AttentionMap], samples: int | Sequence[int] | None) -> list[int]:
    counts = {layer.images for layer in layers}
    if len(counts) > 1:
        found = ", ".join(f"{layer.name!r} {layer.images}" for layer in layers)
        msg = f"The layers have batches of different sizes: {found}; choose layers of one size by layers=."
        raise ShapeError(msg)
    (count,) = counts
    wanted = range(count) if samples is None else _several(samples)
    numbers = [inside(sample, count, "sample", of=layers[0]) for sample in wanted]
    if not numbers:
        msg = f"samples={samples!r} selects none of the batch of {count}; select at least one."
        raise OptionError(msg)
    return numbers
