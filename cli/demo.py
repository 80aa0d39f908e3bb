"""The command `demo`: four photographs, ten methods, two metrics, and what is enough of one, as figures to look at."""

from pathlib import Path

import torch
from attriscope import attribution, metrics, visualization
from attriscope.attribution import attributor as methods
from attriscope.attribution.explanation import Explanation

from .compare import origin, run_study, summary_table, write_study
from .problems import Problem, say
from .run import Request, Session, save_figure, start, write_overlay
from .run import heatmap as draw

PHOTOGRAPHS = ("chelsea.png", "coffee.png", "camera.png", "rocket.jpg")  # scikit-image ships these in its wheel
METHODS = (  # one of each family that an ordinary CNN has, and three more that see only its outputs
    "smoothgrad", "integrated_gradients", "xrai", "grad_cam", "layer_conductance", "lrp_epsilon_plus", "rise", "sobol",
    "shap_bpt", "lima",
)  # fmt: skip
METRICS = ("insertion", "deletion")
BUDGET = 300  # forwards and backwards per image: a minute and a half on two cores, and sobol still has four designs

SWEEP = (0.025, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4)  # areas, of the first photograph
PARTS = 30  # regions of the first photograph, at most
DEARER = 8  # than a method of the comparison: eight masks, half a minute

__all__ = ["demo"]


def demo(out: Path, *, budget: int = BUDGET, model: str = "demo", size: int | None = None) -> None:
    """Explain, compare, draw, and say what there is to see.

    Args:
        out: Where everything goes.
        budget: The most forwards and backwards per image for each method.
        model: As `--model`.
        size: As `--size`.
    """
    request = Request(paths(), METHODS, out, model=model, metrics=METRICS, budget=budget, size=size)
    session = start(request)
    say(f"{len(METHODS)} methods on {len(session.photos)} photographs, at most {budget} evaluations each; about three minutes")
    for i, photo in enumerate(session.photos):
        print(f"{photo.name:8}  {session.class_name(i)}, {float(session.probabilities[i]):.1%}")
    study = run_study(session, out, budget=budget, origin=origin(request))
    write_study(study, session, out, report=True)
    for i, photo in enumerate(session.photos):
        pixels = photo.pixels()
        for method in study.methods:
            stem = f"{photo.name}-{method}"
            found = explanation(study, session, method, i)
            write_overlay(out / "overlays" / f"{stem}.overlay.png", found, pixels, photo)
            save_figure(draw(session, i, found), out / "overlays" / f"{stem}.png", photo)
    sweep(session, out, budget=DEARER * budget)
    grow(session, out)
    print(f"\n{summary_table(study)}\n\n{_closing(out)}")


def sweep(session: Session, out: Path, *, budget: int) -> None:
    """Search the first photograph for the smallest part that is enough, and draw it."""
    found = attribution.create("extremal_perturbation", session.model, areas=SWEEP, budget=budget).explain(
        session.images[:1], session.index(0)
    )
    photo = session.photos[0]
    figure = visualization.area_sweep(found, name=photo.name, classes={session.index(0): session.class_name(0)})
    save_figure(figure, out / "area_sweep.png")


def grow(session: Session, out: Path) -> None:
    """Order the first photograph's regions, and draw how the score rises and falls with them."""
    found = attribution.create("lima", session.model, n_regions=PARTS).explain(session.images[:1], session.index(0))
    photo = session.photos[0]
    figure = visualization.subset_path(found, name=photo.name, classes={session.index(0): session.class_name(0)})
    save_figure(figure, out / "subset_path.png")


def paths() -> list[Path]:
    """The photographs' files."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    missing = [n for n in PHOTOGRAPHS if not (folder / n).is_file()]
    if missing:
        raise Problem(f"this scikit-image comes without {', '.join(missing)}: install the one from PyPI")
    return [folder / n for n in PHOTOGRAPHS]


def explanation(study: metrics.Study, session: Session, method: str, image: int) -> Explanation:
    """What a study knows of one image and method, as an explanation: nothing is computed again but the score."""
    costs = study.costs[(study.costs["method"] == method) & (study.costs["image"] == image)].iloc[0]
    made = methods.REGISTRY.find(method)
    params = study.methods[method]["params"]
    output = params["output"]
    only = slice(image, image + 1)
    with session.model.uncounted():
        scores = session.model.scores(session.images[only], session.index(image), output=output)
    return Explanation(
        maps=study.maps[method][only], native=study.maps[method][only], target=torch.tensor([session.index(image)]),
        scores=scores, forwards=torch.tensor([int(costs["forwards"])]), backwards=torch.tensor([int(costs["backwards"])]),
        seconds=float(costs["seconds"]), method=made.name, params=params, output=output,
    )


def _closing(out: Path) -> str:
    return f"""\
In {out} there is now
  report.html     all of it in one file, to open in a browser and to send: tables with tests, figures, a gallery
  compare.png     every photograph with the map of every method, its scores below
  area_sweep.png  how much of the first photograph is enough: extremal perturbations of eight areas
  subset_path.png which of its regions are enough, one by one: lima
  curves.png      how the class's probability rises and falls as pixels come and go in the order of each map
  overlays/       each map by itself: PHOTOGRAPH-METHOD.png to read, PHOTOGRAPH-METHOD.overlay.png pixel for pixel
  summary.csv     the table above; scores.csv and costs.csv have each image
  study.toml      what was done: attriscope compare {out}/study.toml does it again, or goes on with it
  study.json      with shards/: everything, for attriscope.metrics.Study.load("{out}")


Red speaks for the class that was named, blue against it. The budget is small: rise is still noisy.
Try next:
  attriscope explain YOUR_PHOTO.jpg -m grad_cam -m rise -o masks=2000 --out {out}/mine
  attriscope compare YOUR_FOLDER -m grad_cam -m sobol --metric insertion --budget 600 --out {out}/yours
  attriscope methods integrated_gradients"""
