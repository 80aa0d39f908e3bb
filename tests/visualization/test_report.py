"""The report in a browser, and what it is packed from."""

import copy
import html
import io
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution import _picture, from_maps
from attriscope.attribution.attributor import Computed
from attriscope.metrics import Study
from attriscope.visualization import _packing, _words, report
from attriscope.visualization._gallery import Gallery, choose
from attriscope.visualization.report import _Page
from PIL import Image
from scipy import stats

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>document.title = 'hit'</script>",
    "\"'><b>a&amp;b</b>\u2028\N{SNOWMAN}\udc80",
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture
def figures():
    """Asked for by tests whose reports are drawn whole."""


@pytest.fixture(autouse=True)
def _quick(request, monkeypatch):
    """Other reports come without rankings and costs, which take two seconds each to draw."""
    if "figures" not in request.fixturenames:
        monkeypatch.setattr(_Page, "_figures", lambda *_: [])


# -- the browser -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    required = os.environ.get("ATTRISCOPE_BROWSER") == "required"
    missing = pytest.fail if required else pytest.skip
    found = next((p for p in map(shutil.which, BROWSERS) if p), None)
    if found is None:
        missing(f"no browser to look at reports with: none of {', '.join(BROWSERS)} is installed")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright, which drives the browser, is not installed")
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


class Seen:
    """A page, and everything that it asked for or complained of."""

    def __init__(self, browser, path, *, width=1280, **options):
        self.context = browser.new_context(viewport={"width": width, "height": 800}, offline=True, **options)
        self.page = self.context.new_page()
        self.asked, self.said = [], []
        self.page.on("request", lambda r: self.asked.append(r.url))
        self.page.on("console", lambda m: self.said.append(m.text))
        self.page.on("pageerror", lambda e: self.said.append(str(e)))
        self.page.on("dialog", lambda d: self.said.append(d.message) or d.dismiss())
        self.page.goto(Path(path).as_uri())
        if options.get("java_script_enabled", True):
            self.settle()

    def settle(self):
        """Wait until what was asked for last is drawn."""
        self.page.wait_for_function(
            "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout("
            "() => done(document.getElementById('gallery-body').dataset.drawn !== undefined), 20))))"
        )

    def pixels(self, where):
        """The pixels of a canvas, `(H, W, 3)`."""
        width, height, data = self.page.locator(where).evaluate(
            "c => { const o = new OffscreenCanvas(c.width, c.height).getContext('2d', { willReadFrequently: true });"
            "o.drawImage(c, 0, 0); return [c.width, c.height, [...o.getImageData(0, 0, c.width, c.height).data]]; }"
        )
        return np.array(data).reshape(height, width, 4)[..., :3]

    def map(self, method):
        return self.pixels(f"#cells figure[data-method='{method}'] canvas")

    def shown(self):
        return [int(f.get_attribute("data-method")) for f in self.page.locator("#cells figure:visible").all()]

    def name(self):
        return self.page.locator("#image-name").text_content()

    def slide(self, where, value):
        self.page.locator(where).evaluate(
            "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', { bubbles: true })); }", value
        )
        self.settle()

    def names(self):
        return [b.text_content() for b in self.page.locator("#images .thumb bdi").all()]

    def check(self):
        """Nothing was fetched and nothing went wrong."""
        assert [a for a in self.asked if not a.startswith("data:")] == [self.page.url.split("#")[0]]
        assert self.said == []


@pytest.fixture(scope="module")
def file(made, tmp_path_factory):
    return report(made, tmp_path_factory.mktemp("report") / "report.html", model="a linear one")


@pytest.fixture
def look(browser):
    """Open a report; in the end it must have been quiet."""
    opened = []

    def call(path, **options):
        opened.append(Seen(browser, path, **options))
        return opened[-1]

    yield call
    for seen in opened:
        seen.check()
        seen.context.close()


def test_it_opens_without_a_network_and_shows_everything(look, file, made):
    seen = look(file)
    text = seen.page.locator("body").inner_text()
    for part in (
        "Attribution methods compared", "a linear one", "What is known, and what is not", "4 methods on 3 images", "28 steps",
        "Leaderboard", "mean rank", "Gallery", "What is missing", "undefined on 3 of 3 images", "How to make it again",
        "higher is better", "each method and metric by itself would have paid",
    ):  # fmt: skip
        assert part in text, part
    assert seen.name() == "one.png"
    assert set(seen.shown()) == {0, 1, 2, 3}
    assert "probability" in seen.page.locator("#image-facts").inner_text()
    assert seen.page.locator("#image-facts").inner_text().split()[1] == "ant"


def test_the_canvas_has_the_colours_of_all_figures(look, file, made):
    seen = look(file)
    for i in range(3):
        for m, method in enumerate(made.methods):
            if method == "flat":
                continue
            values = made.maps[method]
            top = _picture.limit(values)
            expected = _picture.overlay(made.inputs[i], values[i, 0], top, made.bounds) * 255
            # half a step of 127 is at most 0.4% of the map's scale, which gives a colour one level, or two where the colour
            # table is steep; the photograph and the canvas round once each
            assert np.abs(seen.map(m) - expected).max() <= 4, (method, i)
        if i < 2:
            seen.page.locator("#next").click()
            seen.settle()


def test_zero_is_grey_in_the_canvas(look, made, tmp_path):
    study = copy.deepcopy(made)
    study.maps["ramp"][:, :, :4] = 0.0
    seen = look(report(study, tmp_path / "r.html"))
    seen.page.locator("#scale-map").check()
    seen.settle()
    pixels = seen.map(0)
    top = pixels[:4]
    assert (top.max(-1) - top.min(-1)).max() == 0
    assert (pixels[4:].max(-1) - pixels[4:].min(-1)).max() > 50


def test_the_next_image_by_click_and_by_key(look, file):
    seen = look(file)
    first = seen.map(2)
    assert seen.page.locator("#previous").is_disabled()
    seen.page.locator("#next").click()
    seen.settle()
    assert seen.name() == "two.png"
    assert np.abs(seen.map(2) - first).max() > 5
    seen.page.locator("h2#gallery-head").click()  # the focus is nowhere in particular
    seen.page.keyboard.press("ArrowRight")
    seen.settle()
    assert seen.name() == "three.png"
    assert seen.page.locator("#image-place").text_content() == "3 of 3"
    assert seen.page.locator("#next").is_disabled()
    seen.page.keyboard.press("ArrowRight")
    assert seen.name() == "three.png"
    seen.page.keyboard.press("ArrowLeft")
    assert seen.name() == "two.png"
    assert seen.page.locator("#images input:checked").get_attribute("value") == "1"


def test_the_list_of_images_works_by_mouse_and_keys(look, file):
    seen = look(file)
    seen.page.locator("#images .thumb").nth(2).click()
    assert seen.name() == "three.png"
    seen.page.locator("#images input").nth(2).focus()
    outline = seen.page.locator("#images .thumb .face").nth(2)
    seen.page.keyboard.press("ArrowLeft")
    assert seen.name() == "two.png"
    outline = seen.page.locator("#images .thumb .face").nth(1).evaluate("e => getComputedStyle(e).outlineStyle")
    assert outline == "solid"  # where the focus is can be seen


def test_everything_can_be_reached_by_tab(look, file):
    seen = look(file)
    reached = set()
    seen.page.locator("nav a").first.focus()
    for _ in range(60):
        seen.page.keyboard.press("Tab")
        reached.add(seen.page.evaluate("document.activeElement.id || document.activeElement.parentElement.textContent.trim()"))
    wanted = {"sort", "mix", "scale-method", "image-0", "all", "none", "next", "reading", "ramp", "saliency"}
    assert wanted <= reached, wanted - reached


def test_every_control_has_a_name(look, file):
    seen = look(file)
    nameless = seen.page.evaluate(
        "[...document.querySelectorAll('button, input, select, canvas:not([hidden]), [role=region], [role=img]')].filter(e => "
        "!(e.getAttribute('aria-label') || e.textContent.trim() || (e.labels && e.labels.length && "
        "e.labels[0].textContent.trim()))).map(e => e.outerHTML)"
    )
    assert nameless == []


def test_methods_are_switched_on_and_off(look, file):
    seen = look(file)
    seen.page.locator("#methods input").nth(1).uncheck()
    seen.settle()
    assert set(seen.shown()) == {0, 2, 3}
    assert {p.get_attribute("data-method") for p in seen.page.locator("#plots polyline").all()} == {"0", "2", "3"}
    seen.page.locator("#none").click()
    seen.settle()
    assert seen.shown() == []
    seen.page.locator("#all").click()
    seen.settle()
    assert set(seen.shown()) == {0, 1, 2, 3}


def test_the_slider_goes_from_the_photograph_to_the_map(look, file, made):
    seen = look(file)
    both = seen.map(0)
    seen.slide("#mix", 0)
    photograph = _picture.photograph(made.inputs[0], made.bounds) * 255
    assert np.abs(seen.map(0) - photograph).max() <= 1  # a tiny photograph is stored without loss, and rounded
    seen.slide("#mix", 100)
    alone = seen.map(0)
    assert np.abs(alone - both).max() > 20
    expected = _picture.overlay(torch.full((3, 8, 6), 0.5), made.maps["ramp"][0, 0], _picture.limit(made.maps["ramp"]), (0, 1))
    assert np.abs(alone - expected * 255).max() <= 4  # as in the test of colours
    seen.slide("#mix", 25)
    assert np.abs(seen.map(0) - (photograph + both) / 2).max() <= 2


def test_one_scale_for_a_method_or_for_each_map(look, file, made):
    """The second and third ramp are 3 and 10 times the first."""
    seen = look(file)

    def strength():
        pixels = seen.map(0)
        return np.abs(pixels[..., 0] - pixels[..., 2]).max()

    pale = strength()
    assert f"{_picture.limit(made.maps['ramp']):.3g}" in seen.page.locator("#cells figure").first.inner_text()
    seen.page.locator("#scale-map").check()
    seen.settle()
    assert strength() > 2 * pale
    assert f"{_picture.limit(made.maps['ramp'][0]):.2g}" in seen.page.locator("#cells figure").first.inner_text()
    own = [seen.map(0)]
    for _ in range(2):
        seen.page.locator("#next").click()
        seen.settle()
        own.append(seen.map(0))
    signs = [np.sign(o[..., 0] - o[..., 2]) for o in own]
    assert (signs[0] == signs[1]).all()
    assert (signs[0] == signs[2]).all()


def test_images_are_sorted(look, made, tmp_path):
    study = copy.deepcopy(made)
    study.probabilities = torch.tensor([0.5, 0.9, 0.1])
    study.maps["saliency"][1] = study.maps["ramp"][1]  # on the second image the methods agree most
    study.maps["ig"][1] = study.maps["ramp"][1]
    study.maps["ig"][2] = -study.maps["ramp"][2]
    seen = look(report(study, tmp_path / "r.html"))
    assert seen.names() == ["one.png", "two.png", "three.png"]
    compared = ["ramp", "saliency", "ig"]  # a constant map has no order
    value = []
    for i in range(3):
        flat = [study.maps[m][i].flatten() for m in compared]
        rho = [stats.spearmanr(flat[a], flat[b]).statistic for a, b in ((0, 1), (0, 2), (1, 2))]
        value.append(1 - np.mean(rho))
    seen.page.locator("#sort").select_option("disagreement")
    seen.settle()
    assert seen.names() == [study.names[i] for i in np.argsort(value)[::-1]]
    assert seen.names()[-1] == "two.png"
    assert seen.name() == seen.names()[0]
    notes = [float(n.text_content()) for n in seen.page.locator("#images .note").all()]
    np.testing.assert_allclose(notes, sorted(value, reverse=True), atol=6e-3)  # three digits
    seen.page.locator("#sort").select_option("low")
    assert seen.names() == ["three.png", "one.png", "two.png"]
    seen.page.locator("#sort").select_option("high")
    assert seen.names() == ["two.png", "one.png", "three.png"]
    seen.page.locator("#sort").select_option("name")
    assert seen.names() == ["one.png", "three.png", "two.png"]
    seen.page.locator("#next").click()
    assert seen.name() == "three.png"


def test_curves_and_scores_are_of_exactly_that_cell(look, file, made):
    seen = look(file)
    seen.page.locator("#next").click()
    seen.settle()
    seen.slide("#reading", 40)
    rows = [r.inner_text().split() for r in seen.page.locator("#readings tbody tr").all()]
    assert [r[0] for r in rows] == list(made.methods)
    for row in rows:
        for k, metric in enumerate(("insertion", "deletion")):
            fractions, values = made.curves[row[0], metric]
            expected = np.interp(0.4, fractions, values[1])
            assert float(row[1 + 2 * k]) == pytest.approx(expected, rel=6e-3)  # three digits
    table = made.scores[(made.scores["image"] == 1) & (made.scores["metric"] == "insertion")].set_index("method")["score"]
    scores = {r[0]: r[2] for r in rows}
    assert scores["flat"] == "undefined"
    assert float(scores["ig"]) == pytest.approx(table["ig"], abs=6e-4)
    bold = [e.text_content() for e in seen.page.locator("#cells figure dl > div:first-child strong").all()]
    assert bold == [scores[table.idxmax()]]
    points = seen.page.locator("#plots polyline[data-method='0']").first.get_attribute("points").split()
    xs, ys = np.array([[float(v) for v in p.split(",")] for p in points]).T
    drawn = made.curves["ramp", "insertion"][1][1].numpy()
    assert np.corrcoef(ys, drawn)[0, 1] < -0.999  # downwards is less
    assert (np.diff(xs) > 0).all()


def test_figures_are_text_and_share_no_names(look, file, made):
    seen = look(file)
    seen.page.emulate_media(media="print")  # all metrics
    assert seen.page.locator(".figure svg:visible").count() == 4
    texts = [t.text_content() for t in seen.page.locator(".figure svg text").all()]
    for part in ("insertion against cost", "deletion: mean ranks", "saliency", "forwards + backwards per image"):
        assert part in texts, part
    assert texts.count("saliency") == 4
    names, links = seen.page.evaluate(
        "[[...document.querySelectorAll('[id]')].map(e => e.id), [...document.querySelectorAll('.figure svg *')].flatMap(e => "
        "[...e.attributes].flatMap(a => (a.value.match(/#[\\w-]+/g) || []).filter(v => /url|href/.test(a.name + a.value))))]"
    )
    assert len(names) == len(set(names))
    links = {v[1:] for v in links if not re.fullmatch(r"#[0-9a-f]{6}", v)}
    assert links
    assert links <= set(names)
    assert seen.page.locator("style").count() == 1


def test_names_are_text_wherever_they_stand(look, network, images, tmp_path, figures):
    label = '<img src="x" onerror="alert(2)">'
    study = metrics.compare(
        network, images, [0, 1, 2], attributors={label: "saliency", "b": "input_x_gradient"}, names=HOSTILE, progress=False,
        classes=["<!-- <script>", "</script>", "&lt;i&gt;", "d"],
    )
    study.left_out = {"<b>gone</b>": "</td><script>document.title = 'hit'</script>"}
    study.configuration = 'title = "</pre><script>document.title = \'hit\'</script>"'
    study.failed = {(HOSTILE[0], "b"): "<i>no memory</i>"}
    study.skipped = {"<u>S</u>": "<b>broken</b>"}
    study.predicted = torch.tensor([1, 2, 0])
    path = report(study, tmp_path / "r.html", title="<u>T</u>", model="<svg onload=alert(3)>")
    seen = look(path)
    assert seen.page.title() == "<u>T</u>"
    seen.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    body = seen.page.locator("body").inner_text()
    for part in (
        label, HOSTILE[0], HOSTILE[1], "<b>gone</b>", "</td><script>", "</pre><script>", "<i>no memory</i>", "<u>T</u>",
        "<svg onload=alert(3)>", "<u>S</u>", "<b>broken</b>",
    ):  # fmt: skip
        assert part in body, part
    found = []
    for i in range(3):
        assert seen.name().replace("\ufffd", "\udc80") in {*HOSTILE, HOSTILE[2]}
        found.append(seen.page.locator("#image-facts").inner_text())
        if i < 2:
            seen.page.locator("#next").click()
    assert "<!-- <script>" in found[0]
    assert "the network says\n</script>" in found[0]
    assert "</script>" in found[1]
    assert "&lt;i&gt;" in found[2]
    assert any("<img" in t.text_content() for t in seen.page.locator(".figure svg text").all())
    assert seen.page.locator("img:not(.thumb img)").count() == 0
    assert seen.page.locator("script").count() == 2
    assert seen.page.evaluate("document.querySelectorAll('b, i, u, svg[onload]').length") == 0


def test_a_handler_that_got_in_would_not_run(look, file):
    seen = look(file)
    seen.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=\"document.title = 1\">')")
    seen.page.wait_for_timeout(50)
    assert seen.page.title() == "Attribution methods compared"
    assert all("Content Security Policy" in s for s in seen.said)
    seen.said.clear()


def test_a_phone_scrolls_downwards_only(look, file):
    seen = look(file, width=360)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert seen.page.locator("#cells canvas").first.bounding_box()["width"] > 120


def test_paper_has_no_controls_and_every_metric(look, file):
    seen = look(file)
    seen.page.locator("#next").click()
    seen.settle()
    assert seen.page.locator(".metric:visible").count() == 1
    seen.page.emulate_media(media="print")
    for control in ("nav", ".controls-panel", "#next", "#reading", "#metric-picker", "select"):
        assert seen.page.locator(f"{control}:visible").count() == 0, control
    assert seen.page.locator(".metric:visible").count() == 2
    assert seen.page.locator("#image-name").is_visible()
    assert seen.name() == "two.png"
    assert seen.page.locator("#cells canvas:visible").count() == 4
    assert seen.page.locator("#plots svg:visible").count() == 2


def test_metrics_are_picked(look, file):
    seen = look(file)
    shown = lambda: [m.get_attribute("id") for m in seen.page.locator(".metric:visible").all()]  # noqa: E731
    assert shown() == ["metric-0"]
    seen.page.locator("#metric-picker input").nth(1).check()
    assert shown() == ["metric-1"]


def test_tables_are_sorted(look, file, made):
    seen = look(file)
    table = seen.page.locator("#metric-0 table")
    methods = lambda: [h.inner_text() for h in table.locator("tbody th").all()]  # noqa: E731
    best = made.summary().loc["insertion"].sort_values("mean", ascending=False)
    assert methods() == [str(m) for m in best.index]  # NaN last
    table.locator("thead button", has_text="mean").click()
    assert methods() == [str(m) for m in best.index]
    table.locator("thead button", has_text="mean").click()
    assert methods() == [*[str(m) for m in best.index[:3]][::-1], "flat"]
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    table.locator("thead button", has_text="method").click()
    assert methods() == sorted(made.methods)


def test_without_a_script_all_tables_are_there(look, file):
    seen = look(file, java_script_enabled=False)
    assert seen.page.locator(".metric:visible").count() == 2
    assert "The gallery needs JavaScript" in seen.page.locator("body").inner_text()


def lone(study):
    """One image, one method."""
    table = study.scores[(study.scores["image"] == 0) & (study.scores["method"] == "ramp")]
    costs = study.costs[(study.costs["image"] == 0) & (study.costs["method"] == "ramp")]
    return Study(
        scores=table, costs=costs, methods={"ramp": study.methods["ramp"]}, metrics=study.metrics,
        maps={"ramp": study.maps["ramp"][:1]}, curves={k: (f, v[:1]) for k, (f, v) in study.curves.items() if k[0] == "ramp"},
        inputs=study.inputs[:1], target=study.target[:1], predicted=study.predicted[:1],
        probabilities=study.probabilities[:1], names=study.names[:1],
    )  # fmt: skip


def undefined(study):
    study.scores["score"] = float("nan")
    study.probabilities[:] = float("nan")
    return study


def unbounded(study):
    study.metrics["insertion"] |= {"range": [-float("inf"), float("inf")], "chance": 0.0}
    study.scores["score"] *= 1000
    study.curves = {k: (f, v * 1000) for k, (f, v) in study.curves.items()}
    return study


def bare(study):
    """No images, no curves, no metrics that are registered, a target of somebody's own."""
    study.inputs = study.target = study.predicted = None
    study.curves, study.bounds = {}, None
    for facts in study.metrics.values():
        facts |= {"name": "somebody's", "protocol": {}, "higher_is_better": True}
    return study


def unscored(study):
    study.metrics, study.curves = {}, {}
    study.scores = study.scores.iloc[:0]
    return study


@pytest.mark.parametrize("change", [lone, undefined, unbounded, bare, unscored])
def test_it_works_whatever_is_missing(look, study, tmp_path, change):
    changed = change(study)
    seen = look(report(changed, tmp_path / "r.html"), width=360)
    assert seen.name() == "one.png"
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert "NaN" not in seen.page.locator("body").inner_text()
    assert "None" not in seen.page.locator("body").inner_text()
    assert seen.page.locator("#curves").is_visible() == bool(changed.curves)
    if changed.inputs is None:
        assert "holds no images" in seen.page.locator("#photo").inner_text()
        assert len(np.unique(seen.map(0))) > 5  # drawn over grey


# -- what it holds -----------------------------------------------------------------------------------------------------


def held(path):
    """The data in a report."""
    text = Path(path).read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def decoded(file):
    import base64

    with Image.open(io.BytesIO(base64.b64decode(file))) as image:
        return np.array(image.convert("RGB"))


def test_eight_bits_round_to_half_a_step_and_keep_zero():
    maps = torch.randn(4, 9, 7, generator=torch.Generator().manual_seed(0))
    maps[:, 3] = 0.0
    for levels in _packing.LEVELS:
        scales = maps.abs().amax((1, 2)).tolist()
        stored = _packing.greys(maps, scales, levels)
        assert (stored[:, 3] == 128).all()
        assert stored.min() >= 1
        back = _packing.values(stored, scales)
        # half a step, and half a grey of 127 where the steps do not part them evenly
        bound = np.array(scales)[:, None, None] * (0.5 / levels + 0.5 / 127 * (levels < 127)) * 1.000001
        assert (np.abs(back - maps.numpy()) <= bound).all()
        np.testing.assert_array_equal(_packing.values(_packing.greys(-maps, scales, levels), scales), -back)


def test_greys_beyond_the_scale_are_clipped_and_an_empty_map_is_zero():
    assert _packing.greys(torch.tensor([[[-9.0, 9.0]], [[0.0, 0.0]]]), [3.0, 0.0]).tolist() == [[[1, 255]], [[128, 128]]]


def test_files_hold_exactly_the_greys():
    stored = np.random.default_rng(0).integers(1, 256, (3, 20, 30)).astype(np.uint8)
    packed = _packing.pack(stored)
    for file, grey in zip(packed.files, stored, strict=True):
        with Image.open(io.BytesIO(file)) as image:
            pixels = np.array(image.convert("RGB"))
        assert (pixels == grey[..., None]).all()
    assert packed.size == sum(len(_packing.base64_of(f)) for f in packed.files)


def test_maps_get_coarser_until_they_fit_noise_first():
    rng = np.random.default_rng(0)
    ramp = np.tile(np.linspace(1, 255, 64).round(), (2, 64, 1)).astype(np.uint8)
    noise = rng.integers(1, 256, (2, 64, 64)).astype(np.uint8)
    noise[:, :8] = 128

    def packed():
        return {"noise": _packing.pack(noise), "ramp": _packing.pack(ramp)}

    whole = sum(p.size for p in packed().values())
    roomy = packed()
    _packing.fit(roomy, whole)
    assert [p.levels for p in roomy.values()] == [127, 127]
    tight = packed()
    _packing.fit(tight, whole * 0.6)
    assert sum(p.size for p in tight.values()) <= whole * 0.6
    assert tight["noise"].levels < 31
    assert tight["ramp"].levels == 127
    with Image.open(io.BytesIO(tight["noise"].files[0])) as image:
        pixels = np.array(image.convert("L"))
    assert (pixels[:8] == 128).all()
    assert len(np.unique(pixels)) <= 2 * tight["noise"].levels + 1
    tiny = packed()
    _packing.fit(tiny, whole * 0.2)
    assert tiny["noise"].greys.shape == (2, 32, 32)
    assert sum(p.size for p in tiny.values()) <= whole * 0.2
    least = packed()
    _packing.fit(least, 10)  # cannot be met: as small as they get
    assert least["noise"].greys.shape == (2, 32, 32)


def test_json_cannot_end_its_element():
    text = _packing.embed([*HOSTILE, "<!--", float("inf")])
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text) == [*HOSTILE, "<!--", None]


def test_disagreement_is_one_minus_the_mean_rank_correlation():
    maps = torch.randn(4, 5, 12, 10, generator=torch.Generator().manual_seed(0)).round(decimals=1)  # with ties
    maps[3, 2] = 1.0  # constant: it has no order
    maps[:, 4] = 1.0
    found = _packing.Disagreement()
    for one in maps:
        found.add(one)
    for i in range(4):
        rows = [m[i].flatten().numpy() for m in maps if m[i].std() > 0]
        rho = [stats.spearmanr(a, b).statistic for k, a in enumerate(rows) for b in rows[:k]]
        assert found.value[i] == pytest.approx(1 - np.mean(rho), abs=1e-9)
    assert np.isnan(found.value[4])


def test_maps_are_stored_up_to_where_the_colour_is_full(made, tmp_path):
    """A spike beyond both limits takes no steps from the rest."""
    study = copy.deepcopy(made)
    study.maps["ramp"][0, 0, 0, 0] = 1e6
    path = report(study, tmp_path / "r.html")
    cell = held(path)["maps"][0][0]
    limits = [_picture.limit(study.maps["ramp"]), _picture.limit(study.maps["ramp"][0])]
    assert cell["scale"] == pytest.approx(max(limits), rel=1e-6)
    grey = decoded(cell["file"])[..., 0].astype(float)
    back = (grey - 128) / 127 * cell["scale"]
    expected = study.maps["ramp"][0, 0].numpy().clip(-cell["scale"], cell["scale"])
    assert np.abs(back - expected).max() <= 0.5 / 127 * cell["scale"] * 1.0001


def test_a_chosen_part_is_in_the_gallery_and_tables_speak_of_all(made, tmp_path):
    path = report(made, tmp_path / "r.html", images=[2, 0], methods=["ig", "ramp"])
    data = held(path)
    assert [i["name"] for i in data["images"]] == ["three.png", "one.png"]
    assert [m["label"] for m in data["methods"]] == ["ig", "ramp"]
    assert len(data["maps"]) == 2
    assert [i["number"] for i in data["images"]] == [2, 0]
    curve = made.curves["ramp", "insertion"][1][2]
    np.testing.assert_allclose(data["curves"][0]["y"][1][0], curve, rtol=1e-3)  # four digits
    text = path.read_text(encoding="utf-8")
    assert "The gallery holds 2 of 3 images" in text
    assert "It holds 2 of 4 methods" in text
    assert text.count(">saliency<") >= 2


def test_what_cannot_be_shown_is_refused(made, tmp_path):
    with pytest.raises(ValueError, match="there is no image 3"):
        report(made, tmp_path / "r.html", images=[3])
    with pytest.raises(ValueError, match="there is no method 'rise'"):
        report(made, tmp_path / "r.html", methods=["rise"])
    with pytest.raises(ValueError, match="size=0"):
        report(made, tmp_path / "r.html", size=0)
    assert not list(tmp_path.iterdir())


def test_very_many_images_are_spread_evenly():
    assert choose(None, 64, 8) == list(range(64))
    few = choose(None, 10_000, 20)
    assert len(few) == 150
    assert few[0] == 0
    assert few[-1] == 9999
    assert max(np.diff(few)) - min(np.diff(few)) <= 1
    assert choose([5, 3], 10_000, 20) == [5, 3]


def test_size_is_kept_and_loss_is_told(network, tmp_path):
    noise = torch.randn(6, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    images = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    scores = pd.DataFrame({"image": range(6), "method": "noise", "metric": "m", "score": 0.5, "tied": 0.0})
    costs = pd.DataFrame({"image": range(6), "method": "noise", "forwards": 1, "backwards": 0, "seconds": 0.1})
    study = Study(
        scores=scores, costs=costs, methods={"noise": {"name": "noise", "params": {}}},
        metrics={"m": {"name": "m", "protocol": {}, "higher_is_better": True, "range": [0, 1], "chance": None, "cost": 1}},
        maps={"noise": noise}, curves={}, inputs=images, target=None, predicted=None, probabilities=torch.rand(6),
        names=[str(i) for i in range(6)],
    )  # fmt: skip
    whole = report(study, tmp_path / "whole.html")
    assert "stored coarsely" not in whole.read_text(encoding="utf-8")
    size = whole.stat().st_size
    maps = sum(len(c["file"]) for c in held(whole)["maps"][0])
    small = report(study, tmp_path / "small.html", size=(size + 60_000 - maps // 2) / 1e6)  # other parts are estimated
    assert small.stat().st_size < size - maps * 0.3
    assert "stored coarsely, and 0 stays 0: " in small.read_text(encoding="utf-8")


def test_a_loaded_study_makes_the_same_report(made, tmp_path):
    made.save(tmp_path / "study")
    loaded = held(report(Study.load(tmp_path / "study"), tmp_path / "b.html"))
    direct = held(report(made, tmp_path / "a.html"))
    for one in (*loaded["images"], *direct["images"]):
        one.pop("file")  # images without bounds are not saved
    assert loaded == direct


class Once(Mapping):
    """Maps that may be asked for once each."""

    def __init__(self, maps):
        self.maps, self.read = maps, []

    def __getitem__(self, label):
        assert label not in self.read
        self.read.append(label)
        return self.maps[label]

    def __iter__(self):
        return iter(self.maps)

    def __len__(self):
        return len(self.maps)


def test_maps_are_read_one_method_at_a_time(study, tmp_path):
    study.maps = Once(study.maps)
    report(study, tmp_path / "r.html")
    assert study.maps.read == list(study.methods)


def test_controls_stand_apart_and_do_not_disagree(network, images, monkeypatch):
    study = metrics.compare(network, images, 0, attributors=["saliency", "input_x_gradient", "occlusion"], progress=False)
    study.maps["occlusion"] = torch.rand(3, 1, 8, 6)
    all_three = Gallery(study, [0, 1, 2], list(study.methods), []).disagreement
    two = Gallery(study, [0, 1, 2], list(study.methods), ["occlusion"]).disagreement
    only = _packing.Disagreement()
    for m in ("saliency", "input_x_gradient"):
        only.add(study.maps[m][:, 0])
    np.testing.assert_allclose(two, only.value)
    assert np.abs(all_three - two).max() > 0.05


def test_a_method_with_the_metric_s_own_baseline_is_marked(network, images, tmp_path):
    study = metrics.compare(network, images, 0, attributors=["saliency", "occlusion"], progress=False)
    study.methods["occlusion"]["params"]["baseline"] = "mean"  # deletion's
    seen = re.sub(r"<[^>]+>", " ", report(study, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert re.search(r"occlusion\s+own baseline: deletion", seen)
    assert seen.count("own baseline") == 3  # in the leaderboard, its legend, and the metric's table


def test_what_is_missing_is_told_with_the_reason(study, tmp_path):
    study.left_out = {"grad_cam": "no layer"}
    study.failed = {("two.png", "ig"): "out of memory", ("three.png", "ig"): "out of memory"}
    text = re.sub(r"<[^>]+>", " ", report(study, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert re.search(r"grad_\s*cam\s+left out: no layer", text)
    assert "failed on two.png and three.png: out of memory" in text
    assert "undefined on 3 of 3 images: constant maps rank no pixel before another" in text


def text_of(path):
    text = re.sub(r"<[^>]+>", " ", path.read_text(encoding="utf-8").replace("<wbr>", ""))
    return re.sub(r"\s+", " ", html.unescape(text))


def test_what_a_comparison_failed_at_is_told(network, images, tmp_path):
    """Methods and metrics that fail on some images, as `compare` itself tells it."""

    class Fragile(attribution.Attributor):
        """Gray values; not of the second image."""

        def compute(self, inputs, target):
            if bool((inputs == images[1]).flatten(1).all(1).any()):
                raise RuntimeError("out of memory")
            return Computed(inputs.mean(1, keepdim=True), {})

        @classmethod
        def _cost(cls, options, shape):
            return 0, 0

    class Broken(metrics.Deletion):
        """Deletion; not of the method's maps of the second image."""

        def prepare(self, todo, images_, maps):
            if len(images_) == 1 and not torch.equal(images_[0], images[0]):
                raise RuntimeError("no score")
            return super().prepare(todo, images_, maps)

    with pytest.warns(RuntimeWarning, match="failed on"):
        study = metrics.compare(
            network, images, [0, 1, 2], attributors={"a": Fragile(network), "b": "saliency"}, block=1,
            metrics={"insertion": "insertion", "broken": Broken()}, names=["one", "two", "three"], progress=False,
        )  # fmt: skip
    assert study.failed == {
        ("two", "a"): "RuntimeError: out of memory",
        ("two", "b, broken"): "RuntimeError: no score",
        ("three", "a, broken"): "RuntimeError: no score",
        ("three", "b, broken"): "RuntimeError: no score",
    }
    text = text_of(report(study, tmp_path / "r.html"))
    assert "a failed on two: RuntimeError: out of memory" in text
    assert "broken of b failed on two and three: RuntimeError: no score" in text
    assert "broken of a failed on three: RuntimeError: no score" in text
    assert " undefined on " not in text, "what failed is not undefined"
    assert not re.search(r"\d undefined", text)


def test_an_undefined_score_beside_a_failed_one_is_still_told(study, tmp_path):
    """One metric's failure hides nothing of the others."""
    study.failed = {(name, "flat, insertion"): "no score" for name in study.names}
    scores = study.scores
    study.scores = scores[(scores["method"] != "flat") | (scores["metric"] != "insertion")]
    text = text_of(report(study, tmp_path / "r.html"))
    assert "insertion of flat failed on one.png, two.png and three.png: no score" in text
    assert "deletion of flat undefined on 3 of 3 images" in text
    assert "insertion of flat undefined" not in text


def test_skipped_inputs_versions_and_an_unfinished_study_are_told(study, tmp_path):
    before = text_of(report(study, tmp_path / "r.html"))
    assert "not finished" not in before
    study.skipped = {"four.png": "cannot identify image file"}
    study.versions, study.finished = {"attriscope": "0.9", "torch": "2.x"}, False
    text = text_of(report(study, tmp_path / "r.html"))
    assert "four.png skipped: cannot identify image file" in text
    assert "Made with attriscope 0.9, torch 2.x" in text
    assert text.count("This study is not finished") == 2  # at the top, and where it says what is missing


def test_how_to_make_it_again(study, tmp_path):
    text = report(study, tmp_path / "a.html").read_text(encoding="utf-8")
    assert "does not hold the file that it was made with" in text
    assert "steps = 4" in text
    study.configuration = 'metrics = ["insertion"]\n'
    text = report(study, tmp_path / "a.html").read_text(encoding="utf-8")
    assert "metrics = [&#34;insertion&#34;]" in text
    assert "attriscope compare study.toml" in text


def pair(**changed):
    row = {"a": "x", "b": "y", "images": 20, "difference": 0.1, "low": -0.05, "high": 0.2, "p_holm": 0.2, "needed": 123.0}
    return [row | changed]


def test_comparisons_in_words():
    assert _words.against(pair(p_holm=0.01, low=0.05, needed=0.0), "x", "y") == (
        "0.01", "better than y: +0.1 [+0.05, +0.2], p = 0.01"
    )  # fmt: skip
    assert _words.against(pair(p_holm=0.01, low=0.05, needed=0.0), "y", "x")[1] == (
        "worse than x: \N{MINUS SIGN}0.1 [\N{MINUS SIGN}0.2, \N{MINUS SIGN}0.05], p = 0.01"
    )
    assert _words.against(pair(), "x", "y")[1].endswith("p = 0.2; about 130 more images would tell")
    assert _words.against(pair(needed=float("inf")), "x", "y")[1].endswith("; no number of images in reach would tell")
    assert _words.against(pair(), "x", None) == ("", "\N{EN DASH}")
    assert _words.against(pair(images=1), "x", "y")[1] == "one image is no test against y"
    assert _words.against(pair(difference=float("nan")), "x", "y")[1] == "no images to compare it with y on"
    assert _words.against([], "x", "y")[1] == "no images to compare it with y on"


def test_from_maps_with_channels_and_other_ranges_are_drawn(network, images, tmp_path):
    study = metrics.compare(
        network, images * 2 - 1, 0, attributors={"mine": from_maps(torch.randn(3, 3, 8, 6), network)}, progress=False
    )
    data = held(report(study, tmp_path / "r.html"))
    assert data["size"] == [8, 6]
    expected = (_picture.photograph(study.inputs[1], None) * 255).round()
    np.testing.assert_array_equal(decoded(data["images"][1]["file"]), expected)
