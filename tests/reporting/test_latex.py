"""LaTeX tables: escaped, bold where best, a page wide; compiled where there is a LaTeX."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from erk_bench.reporting.latex import escaped, latex
from erk_bench.reporting.table_views import PublishedValue, SetSummary, TableView
from tests.reporting.test_table_views import GUIDANCES, make_view, row

NASTY = r"a_b%c&d#e$f{g}h~i^j\k [0] *x* <y> |z| λ ± → ∞ Δσ é ü ç 中 –-1.5 ≤ 'q' Ω ΑΒ µ"


def cells_of(text: str) -> list[list[str]]:
    return [line.removesuffix(r" \\").split(" & ") for line in text.splitlines() if line.endswith(r" \\")]


def test_every_row_is_there_and_escaped() -> None:
    view = make_view()
    text = latex(view)
    header, *rows = cells_of(text)
    assert header[:4] == ["guidance", "steps", "method", "NFE"]
    assert header[4:6] == ["FD-digits", r"$\Delta$ FD-digits"]
    assert len(rows) == len(view.rows) and all(len(line) == len(header) for line in rows)
    assert rows[0][4:6] == [r"10.33 $\pm$ 0.11", "--"]
    assert rows[1][5] == r"$-$2.067 $\pm$ 0.083" or rows[1][5].startswith("$-$2.")
    assert text.isascii() and r"\begin{table*}" in text and r"\label{tab:table}" in text
    assert "% needs \\usepackage{booktabs}" in text
    assert text.count(r"\midrule") == 1 + len(GUIDANCES) - 1
    assert r"\caption{The table: 100\% digits\_8. All of it is\_made up." in text


def test_the_best_of_equal_cost_is_bold() -> None:
    """In the sense of each metric; equal values are not, nor a row alone among others."""
    rows = (
        row("no guidance", 4, "a", 2.0), row("no guidance", 4, "b", 1.0), row("no guidance", 8, "a", 0.1),
    )  # fmt: skip
    view = TableView("t", "c", rows, higher=frozenset({"precision_digits", "is_digits"}),
                     chosen=("method", "fd_digits", "precision_digits", "is_digits"))  # fmt: skip
    _, a, b, alone = cells_of(latex(view))
    assert [r"\textbf" in cell for cell in a] == [False, False, True, False]
    assert [r"\textbf" in cell for cell in b] == [False, True, False, False]
    assert not any(r"\textbf" in cell for cell in alone)
    assert "Bold: the best" in latex(view)
    costs = tuple(row("no guidance", steps, "a", float(steps)) for steps in (4, 8))
    shown = cells_of(latex(TableView("t", "c", costs, chosen=("fd_digits",))))
    assert [r"\textbf" in line[-1] for line in shown] == [
        False, True, False,
    ]  # fmt: skip


def test_what_a_page_has_no_room_for_is_named() -> None:
    rows = tuple(replace(each, method=f"{each.method} {'x' * 40}") for each in make_view().rows)
    text = latex(replace(make_view(), rows=rows))
    header = cells_of(text)[0]
    (comment,) = re.findall("% left out to fit a page: (.*) \\(columns", text)
    left_out = comment.split(", ")
    assert "overhead" in left_out and "seconds_per_1000" in left_out and "fd_digits" not in left_out
    assert "method" in header and "FD-digits" in header
    assert "seconds_per_1000" not in latex(
        replace(make_view(), rows=rows, chosen=("method", "seconds_per_1000"))
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50%_a&b#c$d{e}", r"50\%\_a\&b\#c\$d\{e\}"),
        ("~^\\", r"\textasciitilde{}\textasciicircum{}\textbackslash{}"),
        ("-0.5 ± 0.1", r"$-$0.5 $\pm$ 0.1"),
        ("(-0.5, -.1) 1e-05", r"($-$0.5, $-$.1) 1e$-$05"),
        ("seeds 0-999, xs-2", "seeds 0-999, xs-2"),
        ("λ Λ σ → ∞ µ Α", r"$\lambda$ $\Lambda$ $\sigma$ $\rightarrow$ $\infty$ $\mu$ $A$"),
        ("é ü ç ß", r"\'{e} \"{u} \c{c} \ss{}"),
        ("[a] *b* <c>", "{[}a{]} {*}b{*} $<$c$>$"),
        ("中\n\tx\u2028y", "{[}U+4E2D{]} x y".replace("{[}", "[").replace("{]}", "]")),
    ],
)
def test_escaped(text: str, expected: str) -> None:
    assert escaped(text) == expected


def nasty_view() -> TableView:
    """Long names of all kinds of signs, every column, more rows than a page has."""
    rows = []
    for guidance in ("no guidance", "CFG λ_1"):
        for number in range(40):
            name = f"{NASTY[:24]} {number}"
            made = row(guidance, 4 + number, name, 1.0, difference=(-1.0, 0.1), verdict="better",
                       overhead=(-0.01, 0.1))  # fmt: skip
            rows.append(
                replace(
                    made,
                    published={"fd_digits": PublishedValue(1.0, -1e-5, True)},
                    sets={name: SetSummary(0.1, 0.9) for name in made.metrics},
                )
            )
    return TableView(NASTY, NASTY, tuple(rows), name="n_a%sty 1")


@pytest.mark.results
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs Debian's texlive-latex-recommended")
@pytest.mark.parametrize(
    "name",
    [
        "digits",
        "digits-table4",
        "digits-corrections",
        "digits-angle",
        "convergence",
        "made",
        "nasty",
        "chosen",
    ],
)
def test_latex_compiles_within_the_page(name: str, tmp_path: Path) -> None:
    committed = Path(__file__).parents[2] / "results" / "tables" / f"{name}.tex"
    if name == "nasty":
        text = latex(nasty_view())
    elif name == "made":
        text = latex(make_view())
    elif name == "chosen":
        text = latex(replace(make_view(), chosen=("method", "fd_digits", "difference", "overhead")))
    else:
        text = committed.read_text()
    (tmp_path / "doc.tex").write_text(
        "\\documentclass[twocolumn]{article}\n\\usepackage[margin=1in]{geometry}\n\\usepackage{booktabs}\n"
        f"\\begin{{document}}\n{text}\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "doc.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull \\hbox" not in done.stdout and "Float too large" not in done.stdout, done.stdout
    (pages,) = re.findall(r"Output written on doc.pdf \((\d+) page", done.stdout)
    assert int(pages) <= text.count("\\begin{table*}")  # each part fits its page
