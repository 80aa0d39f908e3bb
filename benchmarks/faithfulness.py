"""Methods on photographs, scored: `python -m benchmarks.faithfulness --study NAME --images FOLDER`.

The folder has photographs and a `labels.csv` (`file`, `class_index`, and `predicted_index` where a study wants images that the
network gets right, or wrong). What is finished is kept below `--out`, and the same command goes on from there.
"""

import argparse
import csv
from pathlib import Path

from attriscope.cli.models import load

from . import extremal, submodular

STUDIES = ("extremal", "submodular")


def photographs(folder: Path) -> tuple[list[Path], list[int], list[bool]]:
    """Files, true classes, and whether the network gets them right."""
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    right = [r["class_index"] == r["predicted_index"] for r in rows]
    return [folder / r["file"] for r in rows], [int(r["class_index"]) for r in rows], right


def main() -> None:
    """Run a study and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faithfulness", description=__doc__)
    parser.add_argument("--study", required=True, choices=STUDIES)
    parser.add_argument("--images", required=True, type=Path, help="a folder of photographs with a labels.csv")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where what is finished is kept")
    parser.add_argument("--limit", type=int, help="the most images")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--full", type=int, help="extremal: images on which the full search, minutes each, is made too")
    given = parser.parse_args()
    found = list(zip(*photographs(given.images), strict=True))
    if given.study == "extremal":
        files, labels, _ = zip(*[one for one in found if one[2]][: given.limit], strict=True)
        print(extremal.run(load("demo"), files, labels, given.out / "extremal", jobs=given.jobs, full=given.full))
    else:
        files, labels, right = zip(*found[: given.limit], strict=True)
        wrong = [not one for one in right]
        print(submodular.run(load("demo"), files, labels, wrong, given.out / "submodular", jobs=given.jobs))


if __name__ == "__main__":
    main()
