"""The figure of `hedge plot wireless`: token accuracy, similarity and what is left out, over SNR, a
row a constellation.
"""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from research.figures import _figure, _styles

Entries = Sequence[dict[str, Any]]
PANELS = {
    "accuracy": "token accuracy",
    "similarity": "sentence similarity",
    "masked": "share left out",
}
# Europarl with BERT, 4-QAM (arXiv 2605.02123): mean sentence similarity and share left out, by SNR
# in dB.
PAPER = {
    "similarity": {0: 0.4198, 5: 0.6987, 10: 0.8554, 15: 0.9423},
    "masked": {0: 0.779, 5: 0.513, 10: 0.285, 15: 0.122},
}


def wireless(rows: Entries) -> Figure:
    """Every system of a study; beside 4-QAM the paper's own figures, which are of other text and
    another model.
    """
    orders = sorted({row["qam"] for row in rows})
    panels = [name for name in PANELS if name in rows[0]]
    figure, axes = _figure(len(panels), 4.4, len(orders))
    for number, (order, name) in enumerate((order, name) for order in orders for name in panels):
        axis = axes[number]
        for system, style in zip(
            dict.fromkeys(row["system"] for row in rows), _styles(), strict=False
        ):
            mine = sorted(
                (r for r in rows if (r["system"], r["qam"]) == (system, order)),
                key=lambda row: float(row["snr_db"]),
            )
            if name != "masked" or any(row["masked"] for row in mine):
                label = system if not number else None
                axis.plot(
                    [row["snr_db"] for row in mine],
                    [row[name] for row in mine],
                    **style,
                    lw=1,
                    label=label,
                )
        if order == 4 and name in PAPER:
            label = "the paper (Europarl, BERT)" if name == "masked" else None
            axis.plot(
                *zip(*PAPER[name].items(), strict=True), color="0.75", lw=4, zorder=0, label=label
            )
        axis.set(
            xlabel="mean SNR, dB", ylabel=PANELS[name], title=f"{order}-QAM", ylim=(-0.02, 1.02)
        )
    figure.legend(fontsize=7, loc="outside lower center", ncols=6)
    return figure


FIGURES: dict[str, Callable[[Entries], Figure]] = {"wireless": wireless}
