"""Adversarial gradient integration: what is lost of the target on the way to other classes."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from .._parameters import Count, Range
from ..attributor import Attributor, Channels, Computed, register
from ..model import Model, map_type
from ..targets import Activation, Output, Target, read

Mode = Literal["paper", "official"]
Choose = Literal["top", "spaced"]


@dataclass(eq=False)
class _Seen:
    """A score that also notes which class the outputs name, so that this costs no evaluation of its own."""

    target: Target
    output: Output
    activation: Activation
    named: Tensor  # (M,), filled in
    where: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    def __call__(self, outputs: Any) -> Tensor:
        self.named[self.where] = outputs.detach().argmax(1).to(self.named.device)
        return read(outputs, self.target, self.output, self.activation)

    def take(self, rows: Tensor | slice) -> "_Seen":
        return replace(self, target=self.target.take(rows), where=self.where[rows])


def _seeing(target: Target, output: Output, activation: Activation) -> tuple[Target, Tensor]:
    """The same target as a callable, and where it writes what class each row was taken for."""
    named = torch.full((len(target),), -1)
    seen = _Seen(target, output, activation, named, torch.arange(len(target)))
    return Target(target.rows, target.count, function=seen), named


def agi(
    model: Model,
    inputs: Tensor,
    target: Target,
    adversaries: Tensor,
    *,
    step: float,
    iterations: int,
    mode: Mode,
    output: Output,
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Go to each other class by signs of its gradient, and sum what the target loses (algorithm 1 of the paper).

    .. math:: -\sum_t \sum_k \nabla f_y(x_k) \odot (x_{k+1} - x_k), \quad
        x_{k+1} = \mathrm{clip}\bigl(x_k + \varepsilon \, \mathrm{sign} \nabla p_t(x_k)\bigr)

    Args:
        model: The model.
        inputs: `(N, C, H, W)`, `(N, F)` or `(N, T, D)`.
        target: Frozen classes y, one row per image.
        adversaries: The classes t, `(N, A)`, -1 where an image has fewer.
        step: The length of a step, in units of the bounds' range; without bounds, of each input's own.
        iterations: The most steps towards one class.
        mode: "paper" goes on from where a step ended; in "official" every step starts from the image again.
        output: Which score of y is attributed.

    Returns:
        `(N, C, H, W)`, and for the details, each `(N, A)`: `"steps"`, `"reached"` and `"lost"`, what the score of y fell
        from the image to the end of the way. As many ways as fill a batch are gone at a time, and one that has ended makes
        room for the next.
    """
    low, high = model.bounds or (-torch.inf, torch.inf)
    spans = (inputs.flatten(1).amax(1) - inputs.flatten(1).amin(1)).cpu().double()
    spans = torch.where(spans > 0, spans, 1.0) if model.bounds is None else torch.full_like(spans, high - low)
    length = (step * spans).to(inputs).reshape(-1, *[1] * (inputs.ndim - 1))
    total = torch.zeros_like(inputs, dtype=map_type(inputs))
    steps, reached = torch.zeros_like(adversaries), torch.zeros_like(adversaries, dtype=torch.bool)
    lost = torch.full(adversaries.shape, torch.nan, dtype=total.dtype)
    waiting = (adversaries >= 0).nonzero()
    ways, x = waiting[:0], inputs[:0]
    while len(waiting) or len(ways):
        room = max(model.batch("gradient") - len(ways), 0)
        new, waiting = waiting[:room], waiting[room:]
        ways, x = torch.cat([ways, new]), torch.cat([x, inputs[new[:, 0]]])
        row, which = ways.unbind(1)
        spent = steps[row, which] == iterations
        aim, named = _seeing(target.take(row), output, model.activation)
        scores, slopes = torch.empty(len(ways), dtype=lost.dtype), torch.zeros_like(x)
        for part, gradient in ((spent, False), (~spent, True)):  # where no step is left, only the score is wanted
            some = part.nonzero().squeeze(1)
            if not len(some):
                continue
            if gradient:
                found, slopes[some] = model.gradients(x[some], aim.take(some))
            else:
                found = model.scores(x[some], aim.take(some))
            scores[some] = found.to(scores)
        fresh = steps[row, which] == 0
        lost[row[fresh], which[fresh]] = scores[fresh]
        there = named == adversaries[row, which]
        done = there | spent
        reached[row, which] = there
        lost[row[done], which[done]] -= scores[done]
        at = (~done).nonzero().squeeze(1)
        ways, row, which, x = ways[at], row[at], which[at], x[at]
        if not len(at):
            continue
        # its sign is the probability's, and it does not underflow
        aim = Target(target.rows[row], target.count, index=adversaries[row, which][:, None])
        _, pushes = model.gradients(x, aim, output="log_probability")
        origin = x if mode == "paper" else inputs[row]
        x = (origin + length[row] * pushes.sign()).clamp(low, high)
        total.index_add_(0, row.to(total.device), -(slopes[at] * (x - origin)).to(total.dtype))
        steps[row, which] += 1
    return total, {"steps": steps, "reached": reached, "lost": lost}


@register(
    "agi",
    family="path",
    aliases=("adversarial_gradient_integration",),
    needs="gradient",
    at_most=True,
    samples="iterations",
    kinds=("image", "table", "tokens"),
    small={"iterations": 5, "classes": 3},
    paper="Pan, Li and Zhu 2021, arXiv:2105.11395, algorithm 1",
)
class AGI(Attributor):
    r"""What the target loses on the way from the image to other classes; no baseline is needed.

    From the image a path goes towards every adversarial class, by steps along the sign of that class's gradient, until the
    network names it. Along the path the target's gradient is summed, times the way and -1: positive is what the target
    loses. Read it as what tells the target from those other classes. All pixels go at the same pace, so that also what no
    one would call part of the object is moved, and the paths end at adversarial examples, which look like the image and
    not like the other class.

    Args:
        output: Which score of the target is summed. The way is that of the other class's probability whatever this is.
        step: The length of a step, in units of the bounds' range; a model without bounds takes each input's own range.
        iterations: The most steps towards one class.
        classes: Towards how many other classes.
        choose: "top": those that the network finds most probable after the target: they are reached soon, and what tells
            the target from them is what decided. "spaced": class numbers at equal distances, as in the published code, which
            for most networks are far-off classes that are seldom reached.
        mode: "paper": each step goes on from where the last one ended. "official": as the published code has it, each
            step starts from the image again, so that no path is longer than a step and `classes` times `iterations` of
            them are summed.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score: the sum over the classes. In the details, each `(N, classes)`:
        `"adversaries"`, -1 where an image has fewer; `"steps"`; `"reached"`, whether the network named the class in the
        end; `"lost"`, how far the target's score fell on the way; and with mode="paper" `"convergence_delta"` `(N,)`, by how
        much the map's sum misses the sum of what was lost.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
        >>> found = attribution.create("agi", network, classes=2, step=0.01).explain(torch.rand(1, 3, 2, 2))
        >>> found.details["steps"].shape, bool(found.details["convergence_delta"].abs() < 0.05)
        (torch.Size([1, 2]), True)
    """

    output: Output = "probability"
    step: Annotated[float, Range(0, open=True)] = 0.05
    iterations: Count = 15
    classes: Count = 15
    choose: Choose = "top"
    mode: Mode = "paper"
    channels: Channels = "sum"

    @classmethod
    def supports(cls, model: Model) -> str | None:
        """Networks with several classes."""
        reason = super().supports(model)
        one = model.output_shape is not None and model.output_shape in {(), (1,)}
        return "it goes towards other classes, and the model has one output" if reason is None and one else reason

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, C, H, W)`, and how each way went."""
        if target.index is None:
            raise ValueError(
                "agi goes from the target's class to others: pass a class number as the target, not a callable"
            )
        if target.index.shape[1] != 1 or (shape := self.model.output_shape) is None or (shape or (1,))[0] < 2:
            raise ValueError(
                f"agi needs outputs of shape (N, classes) with two classes or more, and one of these is "
                f"{self.model.output_shape}: pick others by Model(adapter=...), or take integrated_gradients"
            )
        adversaries = self._adversaries(inputs, target, shape[0])
        how: dict[str, Any] = {"step": self.step, "iterations": self.iterations, "mode": self.mode}
        maps, details = agi(self.model, inputs, target, adversaries, **how, output=self.output)
        details["adversaries"] = adversaries
        if self.mode == "paper":
            details["convergence_delta"] = maps.flatten(1).sum(1) - details["lost"].nansum(1).to(maps)
        return Computed(maps, details)

    def _adversaries(self, inputs: Tensor, target: Target, number: int) -> Tensor:
        """The classes that are gone to, `LongTensor (N, classes)` on the CPU."""
        assert target.index is not None
        many = min(self.classes, number - 1)
        if self.choose == "spaced":
            spaced = (
                torch.arange(self.classes) * number // self.classes if self.classes < number else torch.arange(number)
            )
            each = [spaced[spaced != own] for own in target.index[:, 0]]
            return torch.nn.utils.rnn.pad_sequence(each, batch_first=True, padding_value=-1)
        outputs = self.model.scores(inputs, target, every=True)
        others = outputs.scatter(1, target.index.to(outputs.device), -torch.inf)
        return others.topk(many, 1).indices.cpu()

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        both = 2 * options.iterations * options.classes
        return both + options.classes + (options.choose == "top"), both
