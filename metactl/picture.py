"""The drill as a picture: acknowledged rows per second and site over time, with the phases marked. SVG."""

from collections.abc import Callable, Sequence
from pathlib import Path

from metactl.timeline import Ack

BIN_MS = 250.0
COLOURS = {"site-1": "#3b6fb6", "site-2": "#e08a2e", "site-3": "#6aa84f"}


def rates(acks: Sequence[Ack], site_of: Callable[[Ack], str], began_ms: float, ended_ms: float,
          origin_ms: float) -> tuple[list[float], dict[str, list[float]]]:  # fmt: skip
    """Seconds since the origin of each bin, and the rows per second of each site in it. Pure."""
    bins = max(1, int((ended_ms - began_ms) / BIN_MS) + 1)
    seconds = [(began_ms + (index + 0.5) * BIN_MS - origin_ms) / 1000 for index in range(bins)]
    by_site: dict[str, list[float]] = {}
    for ack in acks:
        index = int((ack.at_ms - began_ms) / BIN_MS)
        if 0 <= index < bins:
            series = by_site.setdefault(site_of(ack), [0.0] * bins)
            series[index] += ack.rows / (BIN_MS / 1000)
    return seconds, dict(sorted(by_site.items()))


def draw(path: Path, title: str, seconds: Sequence[float], by_site: dict[str, list[float]],
         marks: dict[str, float]) -> None:  # fmt: skip
    """Write the SVG. `marks` are phases in milliseconds since the fault, which is at second 0."""
    from matplotlib.figure import Figure  # slow to load: only where a picture is drawn

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots()
    names = list(by_site)
    axes.stackplot(seconds, [by_site[name] for name in names], labels=names, step="mid", alpha=0.85,
                   colors=[COLOURS.get(name, "#888888") for name in names])  # fmt: skip
    top = max((sum(values) for values in zip(*by_site.values(), strict=True)), default=1.0) * 1.25
    axes.axvline(0, color="#c0392b", linewidth=2)
    axes.text(0, top, " fault", color="#c0392b", va="top", rotation=90, ha="right")
    shown = {phase: at_ms / 1000 for phase, at_ms in marks.items() if phase != "last_ack"}
    beside = max(shown.values(), default=0.0) + 0.02 * (seconds[-1] - seconds[0])
    for number, (phase, at_s) in enumerate(shown.items()):
        height = top * (0.96 - 0.06 * number)  # phases are milliseconds apart: their names go below one another
        axes.axvline(at_s, color="#555555", linewidth=0.8, linestyle="--")
        axes.annotate(f"{phase} {at_s:,.3f} s", xy=(at_s, height), xytext=(beside, height), fontsize=8, va="center",
                      arrowprops={"arrowstyle": "->", "color": "#555555", "linewidth": 0.6})  # fmt: skip
    axes.set(
        title=title, xlabel="seconds since the fault", ylabel="rows acknowledged per second, by site", ylim=(0, top)
    )
    axes.margins(x=0)
    axes.legend(loc="upper left", title="served by")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg")
