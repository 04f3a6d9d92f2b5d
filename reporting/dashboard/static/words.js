// Numbers, times and elements in one style.
const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const NOTHING = "–";

export const number = (value) => (value === null || value === undefined ? NOTHING : whole.format(value));
export const compact = (value) => short.format(value);

export function percent(value) {
  if (value === null || value === undefined) return NOTHING;
  const shown = value * 100;
  return `${shown.toFixed(shown !== 0 && shown < 1 ? 2 : 1)} %`;
}

export function duration(ms) {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`;
  if (ms < 3_600_000) return `${Math.round(ms / 60_000)} min`;
  if (ms < 86_400_000) return `${Math.round(ms / 3_600_000)} h`;
  return `${Math.round(ms / 86_400_000)} days`;
}

export function clock(ms, zone, withSeconds = false) {
  const form = { timeZone: zone, hour: "2-digit", minute: "2-digit", hour12: false, ...(withSeconds && { second: "2-digit" }) };
  return new Intl.DateTimeFormat("en-GB", form).format(ms);
}

export function dayName(day) {
  const moment = new Date(`${day}T12:00:00Z`);
  return new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", day: "numeric", month: "short" }).format(moment);
}

// An element with attributes and children; text is always text.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// Columns are { label, of(row) -> text or element, isName }; the column that is the name heads its row.
export function table(caption, columns, rows) {
  const head = make("tr", {}, ...columns.map(({ label }) => make("th", { scope: "col" }, label)));
  const body = rows.map((row) =>
    make("tr", {}, ...columns.map(({ of, isName }) => {
      const shown = of(row);
      if (isName) return make("th", { scope: "row", title: typeof shown === "string" ? shown : shown.textContent }, shown);
      return make("td", { class: shown === NOTHING ? "none" : "" }, shown);
    })),
  );
  return make("table", {}, make("caption", { class: "visually-hidden" }, caption), make("thead", {}, head), make("tbody", {}, ...body));
}

export const empty = (text) => make("p", { class: "empty" }, text);
export const failed = (text) => make("p", { class: "failed" }, text);
