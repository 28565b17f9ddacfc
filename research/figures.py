"""The figures of `hedge plot` over tokens, rows and answers, one function each."""

from itertools import cycle, product
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hedge.edge_client.engine.gates.calibration import fit_measure
from hedge.evaluation.record import AnswerRecord
from research.drawing import Entries, make_figure, make_styles, select, shorten, split_series
from research.study import KEPT, KS, auc, column

MEASURES = ("perturbation", "expected_perturbation", "entropy", "margin", "top1")
_BINS = 36
_SKIP_BINS = 20


def draw_uncertainty(entries: Entries) -> Figure:
    """Of every measure: mean rejection probability in bins of u, the fit and its R^2."""
    figure, panels = make_figure(len(MEASURES), 3.2)
    beta = column(entries, "beta")
    for axes, measure in zip(panels, MEASURES, strict=True):
        us = column(entries, "u", measure)
        u = np.concatenate(us)
        b = np.concatenate(beta)
        fit = fit_measure(us, beta)
        groups = [g for g in np.array_split(np.argsort(u, kind="stable"), _BINS) if len(g)]
        means = [(u[g].mean(), b[g].mean()) for g in groups]
        x, y = np.array(means).T
        axes.scatter(x, y, s=18, color="0.45", label="mean of 1/36 of the tokens")
        span = np.array([u.min(), u.max()])
        axes.plot(
            span, np.clip(fit.a * span + fit.b, 0, 1), "k--", label=f"{fit.a:.2f} u {fit.b:+.3f}"
        )
        axes.set(title=f"{measure}\n$R^2$ = {fit.r2:.2f}", xlabel="u", ylim=(-0.02, 1.02))
        axes.legend(fontsize=7)
    panels[0].set_ylabel(r"rejection probability $\beta$")
    return figure


def draw_roc(entries: Entries) -> Figure:
    """Asking the most uncertain first: rejections found against accepted tokens asked in vain."""
    figure, (axes,) = make_figure(1, 5.0)
    rejected = np.concatenate(column(entries, "rejected"))
    for measure, style in zip(MEASURES, make_styles(), strict=False):
        u = np.concatenate(column(entries, "u", measure))
        order = np.argsort(-u, kind="stable")
        last = np.append(np.diff(u[order]) != 0, True)
        hit = np.cumsum(rejected[order])[last]
        miss = np.cumsum(1 - rejected[order])[last]
        x = np.append(0, miss / miss[-1])
        y = np.append(0, hit / hit[-1])
        axes.plot(
            x,
            y,
            **style | {"markevery": max(1, len(x) // 9)},
            label=f"{measure}, AUC {auc(u, rejected):.3f}",
        )
    axes.plot([0, 1], [0, 1], color="0.8", lw=1)
    axes.set(
        xlabel="accepted tokens asked",
        ylabel="rejected tokens asked",
        title="which measure finds rejections",
    )
    axes.legend(fontsize=8, loc="lower right")
    return figure


def draw_frontier(rows: Entries) -> Figure:
    """Threshold, risk and accuracy over the share skipped, one line a measure."""
    figure, panels = make_figure(3)
    llm = next((row["exact_match"] for row in rows if row["system"] == "llm"), None)
    # These do not depend on the channel: once a run.
    runs = {row["run"]: row for row in rows}.values()
    gated = []
    for row in runs:
        if row.get("threshold") is not None and row["exact_match"] is not None:
            accuracy = row["exact_match"] / llm if llm else row["exact_match"]
            gated.append(row | {"accuracy": accuracy})
    for measure, every, style in split_series(gated, "measure"):
        mine = sorted(every, key=lambda row: float(row["share_skipped"]))
        skipped = [row["share_skipped"] for row in mine]
        for axes, name in zip(panels, ("threshold", "risk", "accuracy"), strict=True):
            axes.plot(skipped, [row[name] for row in mine], **style, label=measure)
    panels[0].set(ylabel="threshold $u_{th}$")
    panels[0].set_yscale("symlog", linthresh=1e-3)
    panels[1].set(ylabel="realised joint risk per token")
    panels[2].set(ylabel="accuracy over the LLM's" if llm else "exact match")
    panels[2].axhline(0.974, color="0.7", lw=1)
    panels[2].axvline(0.748, color="0.7", lw=1)
    for axes in panels:
        axes.set(xlabel="share of tokens skipped")
        axes.legend(fontsize=8)
    return figure


def draw_truncation(entries: Entries) -> Figure:
    """The published bound against true distances, and the acceptance, over k."""
    figure, panels = make_figure(2, 5.0)
    measured = [np.asarray(entry["k"]) for entry in entries if "k" in entry]
    mean = np.mean(measured, axis=0)
    ks = KS[: len(mean)]
    names = {
        "bound": r"published bound $U_{TV}$, $\eta$ = 1",
        "residuals": "true TV of the redraw distributions",
        "flattening": r"half of $\sum|x-\hat x|$: bounds the tested token",
        "tested": "true TV of a tested token",
    }
    for (name, label), style in zip(names.items(), make_styles(), strict=False):
        panels[0].plot(ks, np.maximum(mean[:, KEPT.index(name)], 1e-9), **style, label=label)
    panels[1].plot(ks, mean[:, KEPT.index("acceptance")], "ko-", markersize=5)
    panels[0].set(xscale="log", yscale="log", xlabel="k", ylabel="distance, mean over tokens")
    panels[1].set(xscale="log", xlabel="k", ylabel="acceptance probability")
    panels[0].legend(fontsize=8)
    return figure


def draw_throughput(rows: Entries) -> Figure:
    """Tokens/s over SNR, one panel a bandwidth and kind of fading, one line a system."""
    paper = [row for row in rows if row["account"] == "paper"] or list(rows)
    bandwidths = sorted({row["bandwidth_hz"] for row in paper})
    fadings = sorted({row["fading"] for row in paper})
    figure, panels = make_figure(len(bandwidths), 4.2, len(fadings))
    for axes, (fading, bandwidth) in zip(panels, product(fadings, bandwidths), strict=True):
        for run, every, style in split_series(paper, "run"):
            mine = select(every, bandwidth_hz=bandwidth, fading=fading)
            mine = sorted(mine, key=lambda row: float(row["snr_db"]))
            snr = [row["snr_db"] for row in mine]
            speed, low, high = (
                np.array([row[name] for row in mine]) for name in ("tokens_per_s", "low", "high")
            )
            spread = np.maximum(0, [speed - low, high - speed])
            axes.errorbar(snr, speed, **style, label=shorten(run), lw=1, yerr=spread)
        fades = "no fading" if fading == "none" else f"Rayleigh per {fading}"
        title = f"{bandwidth / 1e6:g} MHz, {fades}"
        axes.set(yscale="log", xlabel="SNR, dB", ylabel="tokens/s", title=title)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=5)
    return figure


def draw_payload(rows: Entries) -> Figure:
    """Uplink bytes per token by system: the paper's account and the messages themselves."""
    figure, (axes,) = make_figure(1, 7.0)
    runs = list(dict.fromkeys(row["run"] for row in rows))
    accounts = list(dict.fromkeys((row["account"], row["vocab"]) for row in rows))
    for i, (account, vocab) in enumerate(accounts):
        mine = {
            row["run"]: row["uplink_bytes_per_token"]
            for row in rows
            if (row["account"], row["vocab"]) == (account, vocab)
        }
        at = np.arange(len(runs)) + (i - (len(accounts) - 1) / 2) * 0.8 / len(accounts)
        label = f"the paper's account, |V| = {vocab}" if account == "paper" else "messages as sent"
        bars = axes.barh(
            at,
            [mine.get(run, 0) for run in runs],
            0.8 / len(accounts),
            label=label,
            color=("0.25", "0.75", "0.5")[i % 3],
            hatch=("", "//", "..")[i % 3],
            edgecolor="black",
        )
        axes.bar_label(
            bars,
            labels=[
                f"{bar.get_width():,.3g}" if bar.get_width() < 1000 else f"{bar.get_width():,.0f}"
                for bar in bars
            ],
            fontsize=7,
            padding=2,
        )
    axes.set(
        xscale="symlog",
        xlabel="uplink bytes per token",
        yticks=range(len(runs)),
        yticklabels=[shorten(run) for run in runs],
    )
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    axes.legend(fontsize=8)
    return figure


def draw_skips(runs: dict[str, list[AnswerRecord]]) -> Figure:
    """How the share skipped is spread over answers."""
    figure, (axes,) = make_figure(1, 5.5)
    fills: Any = cycle(
        [{"color": "0.2"}, {"color": "0.7", "hatch": "//"}, {"color": "0.95", "hatch": ".."}]
    )
    gated = {
        name: run
        for name, run in runs.items()
        if 0 < sum(a.skipped for a in run) < sum(len(a.token_ids) for a in run)
    }
    shares = [[answer.skipped / len(answer.token_ids) for answer in run] for run in gated.values()]
    edges = np.linspace(0, 1, _SKIP_BINS + 1)
    width = 0.9 / _SKIP_BINS / max(1, len(shares))
    for i, (name, share, fill) in enumerate(zip(gated, shares, fills, strict=False)):
        axes.bar(
            edges[:-1] + i * width,
            np.histogram(share, edges)[0],
            width,
            align="edge",
            label=shorten(name),
            edgecolor="black",
            **fill,
        )
    axes.set(xlabel="share of an answer's tokens skipped", ylabel="answers")
    axes.legend(fontsize=7)
    return figure


TOKENS = {"uncertainty": draw_uncertainty, "roc": draw_roc, "truncation": draw_truncation}
ROWS = {"frontier": draw_frontier, "throughput": draw_throughput, "payload": draw_payload}
