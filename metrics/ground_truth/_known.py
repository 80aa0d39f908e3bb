"""What metrics share that bring pictures and networks whose truth is known."""

from abc import abstractmethod
from typing import Any, ClassVar, Literal, overload

import torch
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.conformance import Detector
from attriscope.attribution.model import Model
from attriscope.attribution.targets import TargetLike
from torch import Tensor

from ..metric import Scored, UnitMetric, check_maps


class Known(UnitMetric):
    """Runs a method on pictures and networks of its own: of the method's model nothing is asked.

    It is a subclass that declares its options as annotated fields and defines `measure`.
    """

    unit: ClassVar[str] = "pictures"

    @abstractmethod
    def measure(self, attributor: Attributor) -> Scored:
        """Score a method; it is put on the networks with `attributor.with_model`."""

    @overload
    def score(self, attributor: Attributor, *, curves: Literal[False] = False) -> Tensor: ...

    @overload
    def score(self, attributor: Attributor, *, curves: Literal[True]) -> Scored: ...

    def score(self, attributor: Attributor, *, curves: bool = False) -> Tensor | Scored:
        """Score a method on pictures whose truth is known.

        Args:
            attributor: What `attribution.create` returns: its options count, its model does not.
            curves: Whether to hand back everything that was found.

        Returns:
            `(U,)` float64 on the CPU, NaN where undefined (with a warning that counts them); with `curves=True` a
            `Scored`.

        Raises:
            TypeError: `attributor` is none.
            ValueError: The method does not run on the networks, or cannot be scored.
        """
        self.accept(attributor)
        scored = self.measure(attributor)
        self._tell(scored.scores)
        return scored if curves else scored.scores

    def maps(self, attributor: Attributor, model: Model, inputs: Tensor, target: TargetLike) -> Tensor:
        """A method's maps by one of the metric's own networks, all in one call: `(N, H, W)`, or `(N, F)` of tables.

        Raises:
            ValueError: It does not run there, or its maps are not of the inputs' size.
        """
        try:
            maps = attributor.with_model(model).attribute(inputs, target)
            return check_maps(maps, inputs) if inputs.ndim == 4 else maps
        except ValueError as error:
            raise ValueError(f"{self.name} puts methods on a network of its own, where this one fails: {error}") from error

    def example(self, **model: Any) -> tuple[Model, tuple[Any, ...]]:
        """Nothing but a method, on whatever model."""
        with torch.random.fork_rng(devices=[]):  # layers draw weights before they are set
            network = Detector().eval()
        return Model(network, bounds=(0.0, 1.0), **model), ()
