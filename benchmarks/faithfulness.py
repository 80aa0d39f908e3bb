"""Methods on photographs, scored: `python -m benchmarks.faithfulness --study NAME --images FOLDER`.

The folder has photographs and a `labels.csv` (`file`, `class_index`, and `predicted_index` where a study wants images that the
network gets right, or wrong). What is finished is kept below `--out`, and the same command goes on from there.
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

from attriscope.cli.models import load

from . import extremal

STUDIES: dict[str, Callable[..., str]] = {"extremal": extremal.run}


def photographs(folder: Path, *, right: bool, limit: int | None = None) -> tuple[list[Path], list[int]]:
    """Files and classes, of those that the network gets right, or of all."""
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if not right or r["class_index"] == r["predicted_index"]]
    return [folder / r["file"] for r in rows[:limit]], [int(r["class_index"]) for r in rows[:limit]]


def main() -> None:
    """Run a study and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faithfulness", description=__doc__)
    parser.add_argument("--study", required=True, choices=sorted(STUDIES))
    parser.add_argument("--images", required=True, type=Path, help="a folder of photographs with a labels.csv")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where what is finished is kept")
    parser.add_argument("--limit", type=int, help="the most images")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--full", type=int, help="extremal: images on which the full search, minutes each, is made too")
    given = parser.parse_args()
    files, labels = photographs(given.images, right=True, limit=given.limit)
    run = STUDIES[given.study]
    print(run(load("demo"), files, labels, given.out / given.study, jobs=given.jobs, full=given.full))


if __name__ == "__main__":
    main()
