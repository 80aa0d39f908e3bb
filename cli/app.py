"""The commands and what `--help` says of them; heavy libraries are imported when a command runs."""

from pathlib import Path
from typing import Annotated

import typer

from .problems import Program

__all__ = ["app"]

app = typer.Typer(
    cls=Program, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

Images = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGE",
        help="Photographs, or folders of them. Any size and format: they are turned as their EXIF says, transparent parts "
        "lie over white, and the model sees their middle.",
    ),
]
Methods = Annotated[
    list[str],
    typer.Option(
        "--method", "-m", metavar="NAME", help="A method, or a pattern such as 'perturbation/*'. Repeat it for more."
    ),
]
Settings = Annotated[
    list[str],
    typer.Option(
        "--option", "-o", metavar="KEY=VALUE",
        help="An option of the methods, such as masks=2000: every method that has it gets it. rise.masks=2000 is for one "
        "method, insertion.steps=50 for a metric. `attriscope methods NAME` lists them.",
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder for results; it is made if need be.")]
ModelName = Annotated[
    str,
    typer.Option(
        "--model", metavar="MODEL",
        help="demo (EfficientNet-Lite0, 1000 classes of ImageNet), timm:NAME, torchvision:NAME, hf:NAME (a folder too: "
        "timm:local-dir:FOLDER, hf:FOLDER), FILE.onnx (with ImageNet's normalisation, for methods that need no gradients), or "
        "package.module:callable, which returns a torch module that takes pixels in [0, 1], or an attriscope Model.",
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        "--backend", metavar="NAME",
        help="What runs passes without gradients: torch, onnx, openvino (often 1.2 to 1.5 times as fast on a CPU), or "
        "openvino-bf16, which is faster yet and rounds.",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option("--labels", metavar="FILE", help="Names of the model's classes: text with one name a line, or JSON."),
]
TargetName = Annotated[
    str | None,
    typer.Option(
        "--target", metavar="CLASS",
        help="The class to explain, by number or name; 'label' takes it from labels.csv beside the image (columns file and "
        "class_index). Otherwise: the class that the model names.",
    ),
]
Budget = Annotated[
    int | None,
    typer.Option(
        "--budget", metavar="N", min=1,
        help="The most forward and backward evaluations per image for each method: it picks the number of samples. Methods "
        "that cannot do with it are left out.",
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        "--size", metavar="PIXELS", min=1,
        help="The side of the square that the model sees; otherwise the model's own, or 224.",
    ),
]
Pattern = Annotated[
    str | None, typer.Argument(metavar="NAME", help="A name, or a pattern such as '*cam*' or 'gradient/*'.")
]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"attriscope {version('attriscope')}")
        raise typer.Exit


@app.callback()
def attriscope(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Which parts of an image made a network decide as it did, and how far that can be believed.

    \b
    Look at what it does (three minutes, nothing to download):
      attriscope demo --out runs/demo
    Explain a photograph of your own:
      attriscope explain cat.jpg -m grad_cam -m rise --out runs/cat
    Find out which method to believe, on a folder of photographs:
      attriscope compare photos -m grad_cam -m rise --metric insertion --metric deletion --out runs/photos
    Send what was found to somebody, as one file:
      attriscope report runs/photos
    See which methods there are, and the options of one:
      attriscope methods
      attriscope methods rise
    """  # noqa: D301  \b is click's mark for lines that are kept
    del version
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(short_help="List the methods, or show everything about one.")
def methods(
    pattern: Pattern = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="MODEL",
            help="List those that run on this model as it is, and say why the others do not. As for explain: demo, timm:NAME, "
            "torchvision:NAME, hf:NAME, FILE.onnx or package.module:callable.",
        ),
    ] = None,
    size: Size = None,
) -> None:
    """List the attribution methods, or show everything about one: what it does, needs and costs, and its options.

    \b
    For example:
      attriscope methods
      attriscope methods 'perturbation/*'
      attriscope methods rise
      attriscope methods 'cam/*' --model timm:vit_base_patch16_224
    """  # noqa: D301  as above
    from attriscope.attribution.attributor import REGISTRY

    from . import tables

    found = tables.matching(REGISTRY, pattern)
    if size is not None and model is None:
        from .problems import Problem

        raise Problem(f"--size {size} is for --model: which methods there are does not depend on it")
    reasons: dict[str, str | None] = dict.fromkeys(found)
    if model is not None:
        from . import run

        reasons = run.suit(found, model, size)
    left_out = [f"{name} does not run on {model}: {reason}" for name, reason in reasons.items() if reason is not None]
    if pattern is not None and not set("*?[") & set(pattern):
        print(tables.describe_method(found[0]))
        if model is not None:
            print("\n" + (left_out or [f"{found[0]} runs on {model}."])[0])
        return
    running = [name for name, reason in reasons.items() if reason is None]
    if running:
        print(tables.list_methods(running))
        print("\ncost: evaluations for one image, f: forward, b: backward. All about one: attriscope methods NAME")
    if left_out:
        print("\n" * bool(running) + "\n".join(left_out))


@app.command(short_help="List the metrics, or show everything about one.")
def metrics(pattern: Pattern = None) -> None:
    """List the metrics that tell how far a map can be believed, or show everything about one.

    \b
    For example:
      attriscope metrics
      attriscope metrics insertion
    """  # noqa: D301  as above
    from attriscope.metrics.metric import REGISTRY

    from . import tables

    found = tables.matching(REGISTRY, pattern)
    if pattern is not None and not set("*?[") & set(pattern):
        print(tables.describe_metric(found[0]))
    else:
        print(tables.list_metrics(found))
        print(
            "\ncost: evaluations for one map, f: forward, E: an explanation by the method again. All about one: attriscope "
            "metrics NAME"
        )


@app.command(short_help="Show what in a photograph made the model decide.")
def explain(
    images: Images,
    *,
    out: Out,
    method: Methods = [],  # noqa: B006  typer copies it
    option: Settings = [],  # noqa: B006  as above
    model: ModelName = "demo",
    target: TargetName = None,
    labels: Labels = None,
    budget: Budget = None,
    size: Size = None,
    backend: Backend = None,
) -> None:
    """Show which parts of photographs made the model see what it sees there.

    Writes for each image and method a figure, the map over the photograph at the photograph's own size, and the numbers;
    prints a table. Without -m the method is integrated_gradients, which runs on any network.

    \b
    For example:
      attriscope explain cat.jpg --out runs/cat
      attriscope explain cat.jpg -m rise -m grad_cam -o masks=2000 --out runs/cat
      attriscope explain cat.jpg -m 'gradient/*' --target 'tiger cat' --out runs/cat
      attriscope explain scan.png --model mynets:load --labels names.txt --size 320 --out runs/scan
    """  # noqa: D301  as above
    from . import run

    run.explain(
        run.Request(
            images, method or [run.METHOD], out, model=model, settings=option, labels=labels, target=target, budget=budget,
            size=size, backend=backend,
        )
    )


@app.command(short_help="Score several methods and draw them side by side.")
def compare(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE",
            help="Photographs, or folders of them; or one FILE.toml that says what the study is: what is typed beside it "
            "counts more.",
        ),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The study's folder. What is in it already is not computed again."),
    ] = None,
    method: Methods = [],  # noqa: B006  typer copies it
    metric: Annotated[
        list[str],
        typer.Option(
            "--metric", metavar="NAME",
            help="A metric, or a pattern. Repeat it for more; otherwise insertion and deletion. Metrics that a pattern finds "
            "and that need --annotations are left out without.",
        ),
    ] = [],  # noqa: B006  as above
    option: Settings = [],  # noqa: B006  as above
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset", metavar="NAME",
            help="The protocol of the metrics, such as rise-large; see `attriscope metrics insertion`.",
        ),
    ] = None,
    baseline: Annotated[
        list[str],
        typer.Option(
            "--baseline", metavar="NAME",
            help="What stands for missing pixels in metrics that have a baseline, such as black, mean or blur. Repeat it to "
            "score each under several.",
        ),
    ] = [],  # noqa: B006  as above
    annotations: Annotated[
        Path | None,
        typer.Option(
            "--annotations", metavar="FILE",
            help='Where the objects are, as JSON: {"cat.jpg": {"boxes": [[left, top, right, bottom], ...]}}, in pixels of the '
            'upright photograph, or {"cat.jpg": {"mask": "cat-mask.png"}}.',
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="The most photographs: the first ones.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="As for explain.", show_default="demo")
    ] = None,
    target: TargetName = None,
    labels: Labels = None,
    budget: Budget = None,
    size: Size = None,
    backend: Backend = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", metavar="N", help="Processes at work; -1 is one for each core.", show_default="1"),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(
            "--dask", metavar="ADDRESS",
            help="The scheduler of a Dask cluster that does the work, such as tcp://10.0.0.1:8786; --jobs is then how much of "
            "it at a time.",
        ),
    ] = None,
    report: Annotated[
        bool | None,
        typer.Option("--report/--no-report", help="Whether to write report.html, one file to send.", show_default="report"),
    ] = None,
) -> None:
    """Run several methods on the same photographs, score their maps, and draw them side by side.

    Writes a report, figures, tables as CSV, the whole study, and study.toml, which says what it is; prints a summary with 95%
    intervals. Everything that is finished is on disk at once: after Ctrl-C, or whatever ends it, the same command goes on.

    \b
    For example:
      attriscope compare photos -m grad_cam -m rise --out runs/photos
      attriscope compare photos -m '*' --budget 500 --metric insertion --preset rise --out runs/photos
      attriscope compare photos -m saliency -m sobol -o grid=10 --target label --limit 100 --jobs 2 --out runs/photos
      attriscope compare runs/photos/study.toml --out runs/again
    """  # noqa: D301  as above
    from . import compare as command

    command.compare(
        command.Options(
            images, method, out, model=model, metrics=metric, settings=option, preset=preset, labels=labels, target=target,
            budget=budget, size=size, backend=backend, limit=limit, baselines=baseline, annotations=annotations, jobs=jobs,
            dask=dask, report=report,
        )
    )


@app.command(short_help="Write what a study found as one file to send.")
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a study: what compare was given as --out.")],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The file to write; otherwise DIR/report.html.")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", metavar="TEXT", help="The report's title.")] = None,
) -> None:
    """Write a report on a study: one file of HTML that opens anywhere and loads nothing.

    It says what is known and what is not, ranks the methods with intervals and tests, and has a gallery of all maps.

    \b
    For example:
      attriscope report runs/photos
      attriscope report runs/photos --out photos.html --title "Which map to trust"
    """  # noqa: D301  as above
    from . import run

    print(run.report(folder, out, title))


@app.command(short_help="See all of it at work on four photographs.")
def demo(out: Out = Path("runs/demo")) -> None:
    """Explain four photographs with every method, score and draw them: a look at everything, in about three minutes.

    It needs two small packages with a network in them: pip install 'attriscope[demo]'

    \b
    For example:
      attriscope demo --out runs/demo
    """  # noqa: D301  as above
    from .demo import demo as run_demo

    run_demo(out)
