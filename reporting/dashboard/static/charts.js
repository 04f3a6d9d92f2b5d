// Apache ECharts behind three options. Colours come from the style sheet, so that a theme is told once. Tooltips are drawn
// on the canvas: as HTML they would need inline styles, which the page's policy forbids. Every chart has its table beside it.
import { compact, number, percent } from "./words.js";

const { echarts } = globalThis;

function colours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  return { ink: of("ink"), soft: of("ink-soft"), line: of("line"), surface: of("surface"), accent: of("accent"), second: of("second"), bots: of("bots") };
}

export class Chart {
  #element;
  #chart = null;
  #draw = null;

  constructor(element) {
    this.#element = element;
    new ResizeObserver(() => this.#chart?.resize()).observe(element);
  }

  // Show an option, which `draw` makes of the theme's colours; `label` is what the picture says in words.
  show(label, draw) {
    this.#draw = draw;
    if (this.#chart === null) {
      this.#element.replaceChildren();
      this.#chart = echarts.init(this.#element, null, { renderer: "canvas" });
    }
    this.#chart.setOption(this.#option(), { notMerge: true, lazyUpdate: true });
    this.#element.setAttribute("role", "img"); // not before it has a name
    this.#element.setAttribute("aria-label", label);
  }

  // Show words instead of a picture.
  say(element) {
    this.#chart?.dispose();
    this.#chart = this.#draw = null;
    for (const name of ["role", "aria-label"]) this.#element.removeAttribute(name);
    this.#element.replaceChildren(element);
  }

  recolour() {
    if (this.#draw !== null) this.#chart.setOption(this.#option(), { notMerge: true });
  }

  onPick(pick) {
    this.#chart?.off("click");
    this.#chart?.on("click", ({ dataIndex }) => pick(dataIndex));
  }

  // The picture as a PNG file on the reader's disk.
  save(name) {
    if (this.#chart === null) return;
    const address = this.#chart.getDataURL({ type: "png", pixelRatio: 2, backgroundColor: colours().surface });
    const bytes = Uint8Array.from(atob(address.split(",")[1]), (letter) => letter.charCodeAt(0));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  #option() {
    const colour = colours();
    const family = getComputedStyle(document.body).fontFamily;
    return {
      animationDuration: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 250,
      animationDurationUpdate: 0,
      textStyle: { fontFamily: family, color: colour.soft },
      grid: { left: 4, right: 8, top: 28, bottom: 4, outerBoundsMode: "same" },
      legend: { top: 0, right: 0, icon: "roundRect", itemWidth: 10, itemHeight: 10, itemGap: 16, textStyle: { color: colour.soft } },
      tooltip: {
        renderMode: "richText", confine: true, backgroundColor: colour.surface, borderColor: colour.line, padding: [8, 12],
        textStyle: { color: colour.ink, fontFamily: family, fontSize: 13 },
      },
      ...this.#draw(colour),
    };
  }
}

const category = (colour, data, more = {}) => ({
  type: "category", data, axisTick: { show: false }, axisLine: { lineStyle: { color: colour.line } },
  axisLabel: { color: colour.soft, hideOverlap: true, margin: 10 }, ...more,
});
const value = (colour, more = {}) => ({
  type: "value", minInterval: 1, splitLine: { lineStyle: { color: colour.line } },
  axisLabel: { color: colour.soft, formatter: compact }, ...more,
});
const stacked = (name, data, color, more = {}) => ({
  name, data, type: "bar", stack: "all", itemStyle: { color }, emphasis: { disabled: true }, barMaxWidth: 34, ...more,
});
const axisTip = { trigger: "axis", axisPointer: { type: "shadow", shadowStyle: { opacity: 0.08 } } };

export const peopleAndBots = (labels, people, bots) => (colour) => ({
  xAxis: category(colour, labels),
  yAxis: value(colour),
  tooltip: { ...tip(colour), ...axisTip, valueFormatter: number },
  series: [
    stacked("People", people, colour.accent),
    stacked("Bots", bots, colour.bots),
  ],
});

function tip(colour) {
  return {
    renderMode: "richText", confine: true, backgroundColor: colour.surface, borderColor: colour.line, padding: [8, 12],
    textStyle: { color: colour.ink, fontSize: 13 },
  };
}

// Rows of { name, all, unique }, rates or counts, the largest at the top.
export const ranked = (rows, names, isRate) => (colour) => {
  const shown = isRate ? percent : number;
  const series = names.map((name, index) => ({
    name, type: "bar", barMaxWidth: 16, barGap: "25%", emphasis: { disabled: true },
    itemStyle: { color: index ? colour.second : colour.accent, borderRadius: [0, 4, 4, 0] },
    data: rows.map((row) => row.values[index]),
    label: { show: true, position: "right", color: colour.ink, fontSize: 12, formatter: ({ value: found }) => shown(found) },
  }));
  return {
    grid: { left: 4, right: 64, top: 28, bottom: 4, outerBoundsMode: "same" },
    yAxis: category(colour, rows.map((row) => row.name), { inverse: true, axisLabel: { color: colour.ink, width: 190, overflow: "truncate" } }),
    xAxis: value(colour, { minInterval: 0, axisLabel: { color: colour.soft, hideOverlap: true, formatter: isRate ? (found) => `${Number((found * 100).toFixed(2))} %` : compact } }),
    tooltip: { ...tip(colour), ...axisTip, valueFormatter: shown },
    series,
  };
};
