"""What `benchmarks.speed` times, and with how many evaluations."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

SETTINGS: dict[str, dict[str, Any]] = {  # ours and the peers'; what is not here runs at its defaults
    "rise": {"masks": 400},
    "sobol": {"designs": 8},
    "wcam": {"designs": 8},
    "hsic": {"designs": 512},
    "lime": {"samples": 200},
    "kernel_shap": {"samples": 200},
    "shapley_sampling": {"permutations": 4},
    "shap_bpt": {"evaluations": 200},
    "smoothgrad": {"samples": 50},
    "smooth_ig": {"samples": 5},
    "gradient_shap": {"samples": 50},
    "expected_gradients": {"samples": 50},
    "blur_ig": {"steps": 50},
    "guided_ig": {"steps": 50},
    "agi": {"classes": 2},
    "extremal_perturbation": {"steps": 100, "tolerance": 0.0, "continuation": False},
    "lima": {"n_regions": 25},
    "submodular": {"n_regions": 25},
}


@dataclass
class Row:
    """One thing to time.

    Attributes:
        name: As it is printed.
        family: Of the method, or `"metrics"`.
        run: What is timed.
        forwards: Image evaluations of one run; counted for peers and methods, so that 0 will do.
        backwards: Backward evaluations, likewise; a peer's are declared.
        peer: Whose it is, if it is not ours.
        method: The method's name with us, so that a peer's row finds ours.
        backend: What compiled the network, if anything did.
        elsewhere: Whether it runs other networks of this size, copies and heads: then the limit is timed after the run, not
            after each of their calls.
        warm: What is called once before anything is timed; by default one whole run of ours and nothing of a peer's.
        ratios: Distance from the limit in every round.
        seconds: Wall time in every round, without that of the limit.
    """

    name: str
    family: str
    run: Callable[[], Any]
    forwards: int = 0
    backwards: int = 0
    peer: str = ""
    method: str = ""
    backend: str = ""
    elsewhere: bool = False
    warm: Callable[[], Any] | None = None
    ratios: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def evaluations(self) -> int:
        """Forwards and backwards together."""
        return self.forwards + self.backwards
