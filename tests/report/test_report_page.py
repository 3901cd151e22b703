"""The page is complete, honest, escaped, and whole without a network."""

import dataclasses
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from penjing.figures import EpochFigures, Figures, GroupFigures, LatencyFigures, Proof
from penjing.plan import Lock
from penjing.report import CandidateFigures, Report, ReportData
from penjing.report import _charts as charts
from penjing.report import _tables as tables
from penjing.report.data import ClassFigures
from penjing.report.html import breakable
from penjing.task import Recovered

HOSTILE = "<script>alert('x')</script>\"&\u202e\ud800"


class Outline(HTMLParser):
    """What a page consists of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.headings, self.ids, self.links = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs[name] for name in ("href", "src", "data", "action") if name in attrs]


def page(data):
    return Report(data).to_html()


def sections(data):
    return [
        attrs["id"] for tag, attrs in Outline(page(data)).tags if tag == "section" and "id" in attrs
    ]


def test_a_full_report_has_every_section(full):
    assert sections(full) == [
        "figures",
        "budget",
        "candidates",
        "classes",
        "groups",
        "sparsity",
        "layers",
        "repair",
        "weights",
        "training",
        "recovery",
        "locked",
        "proof",
        "making",
    ]


def test_an_empty_report_has_no_section():
    assert sections(ReportData("prune", "a net")) == []


@pytest.mark.parametrize(
    ("field", "section"),
    [
        ("constraints", "budget"),
        ("candidates", "candidates"),
        ("per_class", "classes"),
        ("groups", "groups"),
        ("sparsity", "sparsity"),
        ("repair", "repair"),
        ("histograms", "weights"),
        ("epochs", "training"),
        ("recovery", "recovery"),
        ("locked", "locked"),
        ("proof", "proof"),
    ],
)
def test_a_section_without_data_is_left_out(full, field, section):
    empty = getattr(ReportData("prune", ""), field)
    assert section not in sections(dataclasses.replace(full, **{field: empty}))


def test_every_link_leads_to_a_place_on_the_page(full):
    outline = Outline(page(full))
    assert {link.removeprefix("#") for link in outline.links} <= set(outline.ids)


def test_no_address_is_on_the_page(full):
    assert not re.search(r"(https?:)?//\w|url\(|@import", page(full))


def test_headings_start_at_one_and_skip_no_level(full):
    levels = Outline(page(full)).headings
    steps = [b - a for a, b in zip([0, *levels], levels, strict=False)]
    assert (levels[0], levels.count(1), max(steps)) == (1, 1, 1)


def test_no_id_is_used_twice(full):
    ids = Outline(page(full)).ids
    assert len(ids) == len(set(ids))


def test_every_drawing_has_a_label_or_is_hidden_from_readers(full):
    drawings = [attrs for tag, attrs in Outline(page(full)).tags if tag == "svg"]
    assert all(d.get("aria-label") or d.get("aria-hidden") == "true" for d in drawings)


def test_every_heading_cell_says_what_it_heads(full):
    cells = [attrs for tag, attrs in Outline(page(full)).tags if tag == "th"]
    assert {attrs.get("scope") for attrs in cells} == {"row", "col"}


def test_every_table_has_a_caption(full):
    tags = [tag for tag, _ in Outline(page(full)).tags]
    assert tags.count("caption") == tags.count("table")


def hostile(data):
    return dataclasses.replace(
        data,
        title=HOSTILE,
        command=HOSTILE,
        notes=(HOSTILE,),
        groups=(GroupFigures(HOSTILE, 4, 2),),
        candidates=(
            CandidateFigures(HOSTILE, macs=1000, metric=0.9, note=HOSTILE),
            CandidateFigures("other", macs=2000, metric=0.8),
        ),
        locked=(Lock(HOSTILE, 0, 1, HOSTILE, HOSTILE),),
        choices={HOSTILE: HOSTILE},
        constraints={HOSTILE: HOSTILE},
        epochs=tuple(EpochFigures(i, 1.0, {HOSTILE: 0.5}, 0.1, 1.0) for i in (1, 2)),
    )


def test_hostile_names_are_text_and_nothing_else(full):
    assert page(hostile(full)).count("<script>") == 1


def test_a_page_with_hostile_names_can_be_written(full, tmp_path):
    assert Report(hostile(full)).save(tmp_path / "report.html").stat().st_size > 0


def with_latency(before_ms, after_ms):
    def figures(ms):
        return Figures(
            100, 100, 1000, latency_ms=ms, latency=LatencyFigures("ort", 1, 1, 9, ms, ms, ms)
        )

    return ReportData("compress", "a net", figures(before_ms), figures(after_ms))


def test_a_slower_result_is_never_shown_as_a_win():
    text = page(with_latency(2.0, 3.0))
    assert ("1.50× slower" in text, "× faster" in text) == (True, False)


def test_a_slower_result_is_said_at_the_top():
    assert "<strong>Not faster.</strong>" in page(with_latency(2.0, 3.0))


def test_a_faster_result_has_no_such_note():
    assert "Not faster" not in page(with_latency(3.0, 2.0))


def test_a_budget_that_is_not_met_is_said_at_the_top(full):
    text = page(dataclasses.replace(full, constraints={"macs": "10%"}))
    assert "<strong>Over budget.</strong>" in text


def test_a_class_that_is_unchanged_to_two_digits_is_neither_better_nor_worse(full):
    one = ClassFigures("cat", 10**6, before=0.9, after=0.89999)
    cells = [row[4] for row in tables.classes(dataclasses.replace(full, per_class=(one,))).rows]
    assert [(cell.text, cell.tone) for cell in cells] == [("unchanged", "")]


@pytest.mark.parametrize(
    ("proof", "words"),
    [
        (Proof(1e-15, 0.4, 1e-7, 9, "module"), "far enough for that to mean something"),
        (Proof(1e-15, 1e-5, 1e-7, 9, "module"), "this agreement proves little"),
        (Proof(0.1, 0.4, 1e-7, 9, "graph", "sizes are baked in"), "Do not rely on this cut"),
        (Proof(float("nan"), 0.4, 1e-7, 9, "module"), "Do not rely on this cut"),
    ],
    ids=["good", "weak", "wrong", "not a number"],
)
def test_a_proof_is_worth_what_it_shows(full, proof, words):
    assert words in page(dataclasses.replace(full, proof=proof))


def test_the_chosen_candidate_is_marked_in_chart_and_table(full):
    text = page(full)
    assert ('class="mark chosen"' in text, '<tr class="marked">' in text) == (True, True)


def test_zeros_are_counted_among_the_layers_that_became_sparse(full):
    assert "90.0% of 2,304 weights are zero in 1 layer; 1 layer stayed dense." in page(full)


@pytest.mark.parametrize("groups", [1, 2, 400])
def test_a_tree_is_drawn_for_any_number_of_groups(groups):
    data = ReportData(
        "prune", "n", groups=tuple(GroupFigures(f"g{i}", 8, 4) for i in range(groups))
    )
    assert page(data).count('class="branch"') == groups


def test_equal_candidates_make_a_chart_all_the_same():
    same = tuple(CandidateFigures(f"c{i}", macs=0, metric=0.0) for i in range(2))
    assert 'class="mark meets"' in page(ReportData("compress", "n", candidates=same))


def test_values_that_are_not_finite_are_left_out_of_the_charts():
    odd = (float("nan"), float("inf"), 0.5, 0.6)
    tried = tuple(CandidateFigures(f"c{i}", macs=10, metric=m) for i, m in enumerate(odd))
    assert page(ReportData("compress", "n", candidates=tried)).count('class="mark meets"') == 3


def test_every_step_of_a_recovery_is_drawn_once_for_each_split(full):
    drawn = page(full).split('id="recovery"')[1].split("</svg>")[0]
    assert drawn.count("<polyline") == 2
    assert drawn.count("<circle") == 8  # the original and three steps, twice
    assert "fine-tuned on test: 93.02 % (0.996 of it)" in drawn


def test_a_split_looks_alike_in_every_drawing_of_a_recovery():
    rows = (
        Recovered("cut", "held-out calibration", "agreement", 1.0, 1.0, 0.8),
        Recovered("cut", "test", "accuracy", 0.9, 0.9, 0.8),
    )
    drawn = page(ReportData("compress", "", recovery=rows)).split('id="recovery"')[1]
    of_accuracy = drawn.split("</figure>")[1]  # of test data alone, the second split
    assert 'class="line"' not in of_accuracy
    assert of_accuracy.count('class="line second"') == 2  # in the drawing and in its legend


def test_a_step_without_a_finite_figure_stays_in_the_table(full):
    broken = dataclasses.replace(full.recovery[0], after=float("nan"))
    text = page(dataclasses.replace(full, recovery=(broken, *full.recovery[1:])))
    section = text.split('id="recovery"')[1].split("</section>")[0]
    assert section.count('role="img"') == 1  # the loss alone
    assert "not a number" in section


def test_a_chain_of_many_steps_names_those_that_have_room():
    rows = tuple(Recovered(f"cut {i}", "val", "accuracy", 0.9, 0.9, 0.8) for i in range(30))
    drawn = page(ReportData("prune", "", recovery=rows)).split('id="recovery"')[1]
    names = drawn.split("</svg>")[0].count('text-anchor="middle"')
    assert 4 <= names <= 6


def test_a_single_network_that_was_measured_makes_a_page():
    assert "1,000" in page(ReportData("measure", "n", Figures(100, 100, 1000)))


def test_a_network_that_was_only_measured_is_not_said_to_be_compared():
    shown = page(ReportData("measure", "n", Figures(100, 100, 1000))).split("<body>")[1]
    assert "before" not in shown.split("<script>")[0]


def test_making_a_page_twice_gives_the_same(full):
    assert page(full) == page(full)


def test_the_original_is_drawn_where_the_samples_that_judged_the_candidates_put_it():
    tried = (
        CandidateFigures("a", macs=10, metric=0.97, drop=0.02, kept=True),
        CandidateFigures("b", macs=20, metric=0.98, drop=0.01),
    )
    data = ReportData(
        "compress",
        "n",
        before=Figures(100, 100, 40),
        metrics_before={"accuracy": 0.5},  # of other samples
        candidates=tried,
    )
    assert "original: 40, 99.00 %" in page(data)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("MaskFormerForInstances", ["Mask", "Former", "For", "Instances"]),
        ("model.layers.0.fc1", ["model.", "layers.", "0.", "fc1"]),
        ("HTMLNet_v2", ["HTML", "Net_", "v2"]),
        ("<b>", ["&lt;b&gt;"]),
    ],
)
def test_a_long_name_is_broken_where_its_words_meet(name: str, words: list[str]) -> None:
    assert breakable(name) == "<wbr>".join(words)


@pytest.mark.parametrize("bound", [1.1, 3.0], ids=["left", "right"])
def test_the_names_of_two_budgets_do_not_cover_each_other(bound):
    points = [charts.Point(x, y, "meets", "") for x, y in ((1.0, 0.9), (3.3, 1.0))]
    x = charts.Axis(title="cost", show=str, bound=bound)
    y = charts.Axis(title="quality", show=str, bound=0.901)
    drawn = ElementTree.fromstring(str(charts.scatter(points, x, y, label="both")))
    one, other = (float(e.get("x")) for e in drawn.iter("text") if e.text == "budget")
    assert abs(one - other) > 150
