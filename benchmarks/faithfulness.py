"""Methods on photographs, scored: `python -m benchmarks.faithfulness --study NAME --images FOLDER`.

The folder has photographs and a `labels.csv` (`file`, `class_index`, and `predicted_index` where a study wants images that the
network gets right, or wrong). What is finished is kept below `--out`, and the same command goes on from there.
"""

import argparse
import csv
from pathlib import Path

from attriscope.cli.models import load

from . import difull, extremal, sanity, submodular

STUDIES = ("difull", "extremal", "sanity", "submodular")


def photographs(folder: Path) -> list[tuple[Path, int, bool]]:
    """Each file with its true class, and whether the network gets it right."""
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [(folder / r["file"], int(r["class_index"]), r["class_index"] == r["predicted_index"]) for r in rows]


def main() -> None:
    """Run a study and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faithfulness", description=__doc__)
    parser.add_argument("--study", required=True, choices=STUDIES)
    parser.add_argument("--images", required=True, type=Path, help="a folder of photographs with a labels.csv")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where what is finished is kept")
    parser.add_argument("--limit", type=int, help="the most images")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--backend", default="torch", help="what runs passes without gradients: torch, onnx, openvino")
    parser.add_argument("--full", type=int, help="extremal: images on which the full search, minutes each, is made too")
    parser.add_argument("--shown", type=int, default=0, help="sanity: which photograph the cascade shows")
    given = parser.parse_args()
    every = [one for one in photographs(given.images) if one[2] or given.study == "submodular"]
    files, labels, right = zip(*every[: given.limit], strict=True)
    model, out = load("demo", backend=given.backend), given.out / given.study
    if given.study == "extremal":
        print(extremal.run(model, files, labels, out, jobs=given.jobs, full=given.full))
    elif given.study == "difull":
        print(difull.run(model, files, labels, out))
    elif given.study == "sanity":
        print(sanity.run(model, files, labels, out, jobs=given.jobs, shown=given.shown))
    else:
        print(submodular.run(model, files, labels, [not one for one in right], out, jobs=given.jobs))


if __name__ == "__main__":
    main()
