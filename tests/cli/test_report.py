"""The command `report`."""

import pytest


@pytest.fixture
def folder(run, photo, nets, tmp_path):
    """A study of one photograph."""
    out = tmp_path / "study"
    code, _, err = run(
        "compare", photo(), "-m", "saliency", "-m", "input_x_gradient", "--metric", "insertion", "-o", "insertion.steps=4",
        "--model", f"{nets}:bright", "--size", 32, "--no-report", "--out", out,
    )  # fmt: skip
    assert code == 0, err
    return out


def test_a_report_lies_in_the_study_or_where_it_is_wanted(run, folder, tmp_path):
    code, text, err = run("report", folder)
    assert (code, err) == (0, "")
    assert text.strip() == str(folder / "report.html")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "2 methods on 1 image, judged by insertion" in page
    assert "input_<wbr>x_<wbr>gradient" in page
    other = tmp_path / "new" / "a.html"
    code, text, err = run("report", folder, "--out", other, "--title", "For <you>")
    assert (code, err, text.strip()) == (0, "", str(other))
    assert "<h1>For &lt;you&gt;</h1>" in other.read_text(encoding="utf-8")


def test_what_is_no_study_is_told(fails, folder, tmp_path):
    assert fails("report", tmp_path) == f"{tmp_path} holds no study: there is no study.json in it"
    assert "holds no study" in fails("report", tmp_path / "nowhere")
    (folder / "study.json").write_bytes(b"rubbish")
    assert "is damaged" in fails("report", folder)
    assert not (folder / "report.html").exists()


def test_a_file_that_cannot_be_written_is_told(fails, folder, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write to the folder" in fails("report", folder, "--out", tmp_path / "file" / "a.html")
