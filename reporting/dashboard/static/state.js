// What the figures are about. The address is the one place that holds it: a reload, a bookmark and "back" show the same.
const DEFAULTS = { range: "30", from: "", to: "", zone: "", promotion: "" };
const RANGES = new Set(["1", "7", "30", "90", "custom"]);

export function readState(search = location.search) {
  const given = new URLSearchParams(search);
  const state = {};
  for (const [name, fallback] of Object.entries(DEFAULTS)) state[name] = given.get(name) ?? fallback;
  if (!RANGES.has(state.range)) state.range = DEFAULTS.range;
  return state;
}

export function writeState(state) {
  const wanted = new URLSearchParams();
  for (const [name, fallback] of Object.entries(DEFAULTS)) {
    const isOfCustom = name === "from" || name === "to";
    if (state[name] !== fallback && !(isOfCustom && state.range !== "custom")) wanted.set(name, state[name]);
  }
  const search = wanted.size ? `?${wanted}` : "";
  if (search !== location.search) history.pushState(null, "", location.pathname + search);
}

// The day of a moment in a zone, as YYYY-MM-DD.
export function dayIn(zone, moment = new Date()) {
  const parts = new Intl.DateTimeFormat("en-CA", { timeZone: zone, year: "numeric", month: "2-digit", day: "2-digit" });
  return parts.format(moment);
}

export function shiftDay(day, by) {
  const moment = new Date(`${day}T12:00:00Z`);
  moment.setUTCDate(moment.getUTCDate() + by);
  return moment.toISOString().slice(0, 10);
}

// First and last day, both included, in the zone of the figures.
export function periodOf(state, zone) {
  if (state.range === "custom") return { from: state.from, to: state.to };
  const to = dayIn(zone);
  return { from: shiftDay(to, 1 - Number(state.range)), to };
}

export function isZone(name) {
  try {
    new Intl.DateTimeFormat("en", { timeZone: name });
    return true;
  } catch {
    return false;
  }
}
