"""Games: an image's score as a function of which of its regions are kept."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from . import masking, regions
from ._parameters import canonical
from .model import Model
from .targets import Output, Target

Seen: TypeAlias = tuple[float, float]  # the score, and the confidence or NaN

__all__ = ["Game", "ends"]


def ends(regions: int) -> Tensor:
    """The empty coalition and the whole one, `(2, regions)` bool.

    Example:
        >>> ends(2).tolist()
        [[False, False], [True, True]]
    """
    return torch.tensor([[False], [True]]).expand(2, regions)


class Game:
    """`v_i(S)`: the score of image i where the regions S are kept and the others replaced by the baseline.

    A coalition is evaluated once, however often it is asked for. Within `Model.sharing` that holds across methods: whoever
    plays on the same regions, baseline, target and score finds what others have paid for, and the whole and the empty
    image also where the regions differ.

    Args:
        model: The model.
        inputs: `(N, C, H, W)`, `(N, F)` or `(N, T, D)`.
        baseline: What stands in for a region that is left out, broadcastable to the inputs.
        labels: `(N, H, W)`, `(N, F)` or `(N, T)`, each numbered without gaps.
        target: Frozen, one row per image.
        output: Which score.
        confident: Whether to look at all classes of every coalition, for `confidences`.

    Attributes:
        sizes: How many regions, players, each image has.

    Example:
        >>> x = torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]])
        >>> model = Model(lambda x: x.sum((1, 2, 3))[:, None], bounds=None, batch_size=4)
        >>> labels = torch.tensor([[[0, 0], [1, 2]]])
        >>> game = Game(model, x, torch.zeros(1, 1, 1, 1), labels, model.resolve(x, 0), output="logit")
        >>> game.values([torch.tensor([[True, False, True], [False, False, False], [True, False, True]])])
        [tensor([11.,  0., 11.], dtype=torch.float64)]
        >>> model.forwards
        2
    """

    def __init__(
        self,
        model: Model,
        inputs: Tensor,
        baseline: Tensor,
        labels: Tensor,
        target: Target,
        *,
        output: Output,
        confident: bool = False,
    ) -> None:
        self.model, self.inputs, self.baseline, self.labels = model, inputs, baseline, labels
        self.target, self.output = target, output
        self.confident = confident and self._has_classes()
        self.sizes = regions.sizes(labels)
        self._seen: list[dict[bytes, Seen]] = [{} for _ in inputs]
        self._places = None if model.shared is None else self._find_places()

    def values(self, wanted: Sequence[Tensor]) -> list[Tensor]:
        """The scores of coalitions.

        Args:
            wanted: For each image `(m_i, d_i)` bool, on the CPU; `m_i` may be 0.

        Returns:
            For each image `(m_i,)` float64 on the CPU.

        Raises:
            ValueError: Coalitions of another number of regions than an image has, or no bool.
        """
        return [torch.tensor([s for s, _ in own], dtype=torch.float64) for own in self._look(wanted)]

    def confidences(self, wanted: Sequence[Tensor]) -> list[Tensor]:
        r"""How sure the network is of coalitions, whatever class it names: :math:`1 + \sum_c p_c \ln p_c / \ln C`.

        The forwards are those of `values`. It is 0 where what is explained is no class out of several that exclude each
        other, or the game is not `confident`.

        Args:
            wanted: As for `values`.

        Returns:
            For each image `(m_i,)` float64 on the CPU, in [0, 1].
        """
        if not self.confident:
            return [torch.zeros(len(w), dtype=torch.float64) for w in wanted]
        return [torch.tensor([c for _, c in own], dtype=torch.float64) for own in self._look(wanted)]

    def _look(self, wanted: Sequence[Tensor]) -> list[list[Seen]]:
        """Scores and confidences of coalitions; those that nobody has seen are evaluated."""
        for one, d in zip(wanted, self.sizes, strict=True):
            if one.dtype != torch.bool or one.ndim != 2 or one.shape[1] != d:
                raise ValueError(f"coalitions of {d} regions are (m, {d}) bool, not {tuple(one.shape)} {one.dtype}")
        keys = [[row.tobytes() for row in np.packbits(w.numpy(), axis=1)] for w in wanted]
        fresh: list[dict[bytes, int]] = []
        reused = []
        for image, own in enumerate(keys):
            seen, new = self._seen[image], {}
            for at, key in enumerate(own):
                if key in seen or key in new:
                    continue
                found = self._remembered(image, key)
                if found is None:
                    new[key] = at
                else:
                    seen[key] = found
                    reused.append(image)
            fresh.append(new)
        if reused:
            self.model.reuse(self.target.rows[torch.tensor(reused)])
        self._evaluate([w[list(new.values())] for w, new in zip(wanted, fresh, strict=True)], fresh)
        return [[seen[key] for key in own] for seen, own in zip(self._seen, keys, strict=True)]

    def _has_classes(self) -> bool:
        """Whether what is explained is one of several classes that exclude each other."""
        shape = self.model.output_shape
        one = self.target.index is not None and self.target.index.shape[1] == 1
        return one and shape is not None and len(shape) == 1 and shape[0] > 1 and self.model.activation != "sigmoid"

    def ends(self) -> tuple[Tensor, Tensor]:
        """The scores of the empty images and of the whole ones, `(N,)` each."""
        found = torch.stack(self.values([ends(d) for d in self.sizes]))
        return found[:, 0], found[:, 1]

    def _evaluate(self, rows: list[Tensor], fresh: list[dict[bytes, int]]) -> None:
        """Run coalitions that nobody has seen, all images as one stream."""
        counts = [len(r) for r in rows]
        if not any(counts):
            return
        rows = [r.to(self.inputs.device) for r in rows]
        source = masking.Coalitions(
            self.inputs, self.baseline, self.labels, lambda row, items: rows[row][items], counts
        )
        target = replace(self.target, confident=self.confident)
        scores = torch.cat(masking.evaluate_each(source, self.model, target, output=self.output)).cpu().double()
        both = scores if self.confident else torch.stack([scores, torch.full_like(scores, torch.nan)], 1)
        for image, (new, found) in enumerate(zip(fresh, both.split(counts), strict=True)):
            for key, (value, sure) in zip(new, found.tolist(), strict=True):
                self._seen[image][key] = value, sure
                self._remember(image, key, (value, sure))

    # -- what other methods have evaluated -----------------------------------------------------------------------------

    def _find_places(self) -> list[tuple[dict[Any, Seen], Hashable, Hashable]]:
        """For each image: where its coalitions are kept, and the names of the whole and of the empty image."""
        assert self.model.shared is not None
        whole = masking.identities(self.inputs, None, self.target, self.output)
        cut = masking.identities(self.inputs, self.baseline, self.target, self.output)
        found: list[tuple[dict[Any, Seen], Hashable, Hashable]] = []
        for row, (one, other) in enumerate(zip(whole, cut, strict=True)):
            kept = self.model.shared.setdefault(("game", canonical(self.labels[row]), other), {})
            found.append((kept, ("clean", False, one), ("removed", False, other)))
        return found

    def _end(self, image: int, key: bytes) -> Hashable | None:
        """The name of the whole or the empty image, if this coalition is one."""
        assert self._places is not None
        members = np.unpackbits(np.frombuffer(key, np.uint8), count=self.sizes[image])
        return self._places[image][1] if members.all() else None if members.any() else self._places[image][2]

    def _remembered(self, image: int, key: bytes) -> Seen | None:
        if self._places is None or self.model.shared is None:
            return None
        found = self._places[image][0].get(key)
        if found is None:
            end = self._end(image, key)
            kept = None if end is None else self.model.shared.get(end)
            found = None if kept is None else (float(kept[0]), math.nan)
        return None if found is None or (self.confident and math.isnan(found[1])) else found

    def _remember(self, image: int, key: bytes, found: Seen) -> None:
        if self._places is None or self.model.shared is None:
            return
        self._places[image][0][key] = found
        end = self._end(image, key)
        if end is not None:
            wide = torch.float32 if self.inputs.device.type == "mps" else torch.float64  # which has no float64
            self.model.shared[end] = torch.tensor([found[0]], dtype=wide, device=self.inputs.device)
