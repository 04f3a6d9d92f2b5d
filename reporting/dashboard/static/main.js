// The page: reads what is asked for from the address, asks the reports, shows their answers, and asks again by itself.
import { Away, addressOf, getJson, Refused } from "./api.js";
import { BREAKDOWNS, FILE_ROWS, LISTED, showBreakdown, showFunnel, showLinks, showLive, showPromotions, showTime, showTotals } from "./cards.js";
import { Chart } from "./charts.js";
import { Filters } from "./filters.js";
import { showHealth } from "./health.js";
import { Live } from "./live.js";
import { isZone, periodOf, readState, writeState } from "./state.js";
import { clock, failed, make, number } from "./words.js";

const HEALTH_MS = 5_000;
const RENEW_MS = 60_000;
const RETRY_MS = 5_000;
const DRAW_MS = 500;
const DAY_MS = 86_400_000;
const DAYS_OF_HOURS = 2; // a longer period is shown by day

const at = (id) => document.getElementById(id);
const charts = { live: new Chart(at("live-chart")), time: new Chart(at("time-chart")), ctr: new Chart(at("ctr-chart")) };

let state = readState();
let tenantZone = "";
let skewMs = 0; // the server's clock less ours
let loading = new AbortController();
let renewing = 0;
let drawing = 0;

const isKnown = () => tenantZone !== "";
const zone = () => (state.zone && isZone(state.zone) ? state.zone : tenantZone || "UTC");
const now = () => Date.now() + skewMs;
const filters = new Filters((choice) => go({ ...state, ...choice }));
const live = new Live(now, drawSoon, showLiveState);

// What is away, and that it is back

const away = new Map();

function tell(name, text) {
  if ((away.get(name) ?? "") === text) return;
  if (text) away.set(name, text);
  else away.delete(name);
  at("notice").replaceChildren(...[...away.values()].map((words) => make("p", {}, words)));
  at("notice").hidden = away.size === 0;
}

async function watchHealth() {
  try {
    const health = await getJson("/v1/health");
    skewMs = Date.parse(health.at) - Date.now();
    showHealth(at("health"), health);
    const wasAway = away.has("clickhouse") || away.has("reports");
    const hasTable = health.clickhouse.state === "ok";
    tell("reports", "");
    tell("clickhouse", hasTable ? "" : "ClickHouse does not answer. The figures stay as they were and are renewed by themselves.");
    tell("kafka", health.kafka.state === "ok" ? "" : "Kafka does not answer. Live clicks pause; none is lost.");
    if (!isKnown()) begin(health);
    else if (wasAway && hasTable) load();
  } catch (error) {
    if (error instanceof Refused) tell("reports", error.message);
    else if (error instanceof Away) tell("reports", "The reports do not answer. This page tries again by itself.");
    else throw error;
  } finally {
    setTimeout(watchHealth, HEALTH_MS);
  }
}

function begin(health) {
  tenantZone = health.zone;
  at("tenant").textContent = health.tenant;
  document.title = `${health.tenant} – Clickledger`;
  filters.show(state, tenantZone);
  load();
  live.start(state.promotion);
}

// Another state

function go(next) {
  const isOther = next.promotion !== state.promotion;
  state = next;
  writeState(state);
  filters.show(state, tenantZone);
  load();
  if (isOther) live.start(state.promotion);
  else drawSoon();
}

function pick(promotion) {
  go({ ...state, promotion });
  at("ctr-title").focus({ preventScroll: false });
}

// Reports

const common = () => ({ ...periodOf(state, zone()), zone: zone(), promotion_id: state.promotion || undefined });

function timeBy() {
  const { from, to } = periodOf(state, zone());
  return (Date.parse(to) - Date.parse(from)) / DAY_MS < DAYS_OF_HOURS ? "hour" : "day";
}

async function load() {
  loading.abort();
  clearTimeout(renewing);
  const { signal } = (loading = new AbortController());
  const ask = (path, by, more = {}) => getJson(path, { ...common(), by, ...more }, signal);
  nameCards();
  const askPromotions = (more) => ask("/v1/reports/ctr", "promotion", { empty: true, limit: FILE_ROWS, ...more });
  const everyPromotion = askPromotions({ promotion_id: undefined, unique: state.promotion ? false : undefined });
  const promotions = state.promotion ? askPromotions() : everyPromotion;
  const results = await Promise.all([
    fill("totals", async () => {
      const [total, { rows }] = await Promise.all([ask("/v1/reports/ctr", ""), promotions]);
      showTotals(at("totals"), total.rows[0], rows);
    }, signal),
    fill("funnel", async () => showFunnel(at("funnel"), await promotions), signal),
    fill("time", async () => {
      const { rows } = await ask("/v1/reports/ctr", timeBy(), { empty: true });
      showTime(charts.time, at("time-table"), rows);
    }, signal),
    fill("ctr", () => loadCtr(everyPromotion, ask), signal),
    ...BREAKDOWNS.map((breakdown) =>
      fill(breakdown.by, async () => {
        const { rows, attribution } = await ask("/v1/reports/breakdown", breakdown.by, { unique: false });
        showBreakdown(at(breakdown.by), breakdown, rows);
        if (breakdown.by === "country") showAttribution(attribution);
      }, signal)),
  ]);
  if (signal.aborted) return;
  const isWhole = results.every(Boolean);
  if (isWhole) {
    at("updated").textContent = `Updated ${clock(now(), zone(), true)}`;
    live.seed().catch(() => {}); // what the table could not tell of the last hour before
  }
  renewing = setTimeout(load, isWhole ? RENEW_MS : RETRY_MS);
}

async function loadCtr(everyPromotion, ask) {
  const found = await everyPromotion;
  filters.offer(found.rows);
  if (!state.promotion) {
    showPromotions(charts.ctr, at("ctr-table"), found, pick);
    return;
  }
  nameCards();
  showLinks(charts.ctr, at("ctr-table"), await ask("/v1/reports/ctr", "link", { limit: LISTED }));
}

// Fill a card; what could not be had stays as it was, or says so where nothing was yet. True when it was filled.
async function fill(name, build, signal) {
  const card = at(`${name}-card`);
  card.setAttribute("aria-busy", "true");
  try {
    await build();
    card.dataset.filled = "true";
    card.removeAttribute("aria-busy");
    return true;
  } catch (error) {
    if (signal.aborted) return false;
    card.removeAttribute("aria-busy");
    if (!(error instanceof Away || error instanceof Refused)) throw error;
    if (error instanceof Refused || !card.dataset.filled) sayFailed(name, error);
    return error instanceof Refused; // the same question would be refused again
  }
}

function sayFailed(name, error) {
  delete at(`${name}-card`).dataset.filled;
  const text = failed(error instanceof Refused ? error.message : "Not available at the moment. It will come by itself.");
  if (charts[name]) {
    charts[name].say(text);
    at(`${name}-table`).replaceChildren();
  } else {
    at(name).replaceChildren(text);
  }
}

// Names and addresses that follow the state

function nameCards() {
  const isOne = state.promotion !== "";
  at("ctr-title").textContent = isOne ? `Links of ${filters.nameOf(state.promotion)}` : "Click-through by promotion";
  at("crumbs").hidden = !isOne;
  const files = {
    time: { by: timeBy(), empty: true },
    ctr: isOne ? { by: "link", limit: FILE_ROWS } : { by: "promotion", empty: true, limit: FILE_ROWS },
  };
  for (const link of document.querySelectorAll("[data-download]")) {
    const { download, format } = link.dataset;
    const path = files[download] ? "/v1/reports/ctr" : "/v1/reports/breakdown";
    link.href = addressOf(path, { ...common(), ...(files[download] ?? { by: download }), format });
  }
}

function showAttribution({ text, url }) {
  at("attribution").replaceChildren(make("a", { href: url, rel: "noreferrer" }, text));
}

// Live

function drawSoon() {
  if (drawing || !isKnown()) return;
  drawing = setTimeout(() => {
    drawing = 0;
    const minutes = live.minutes();
    at("live-now").textContent = number(minutes.at(-1).people);
    showLive(charts.live, at("live-table"), minutes, zone());
  }, DRAW_MS);
}

function showLiveState(text) {
  at("live-state").textContent = text;
  at("live-state").dataset.level = text === "live" ? "good" : "warn";
}

// A hidden page needs no stream; browsers allow six connections to one host over all of its pages.
document.addEventListener("visibilitychange", () => {
  if (!isKnown()) return;
  if (document.hidden) live.stop();
  else live.resume();
});
setInterval(drawSoon, 10_000); // minutes pass without clicks too
at("live-table").closest("details").addEventListener("toggle", drawSoon);

// The rest of the page

function addBreakdowns() {
  at("breakdowns").replaceChildren(...BREAKDOWNS.map(({ by, title, class: kind = "" }) =>
    make("section", { class: `card ${kind}`, id: `${by}-card`, "aria-labelledby": `${by}-title` },
      make("header", { class: "card-head" },
        make("h2", { id: `${by}-title` }, title),
        make("div", { class: "card-tools" },
          make("a", { class: "quiet", "data-download": by, "data-format": "csv", href: "#", download: true, "aria-label": `${title} as CSV` }, "CSV"))),
      make("div", { id: by }))));
}

function wireTheme() {
  const button = at("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => document.documentElement.dataset.theme === "dark";
  const show = () => {
    button.setAttribute("aria-pressed", String(isDark()));
    for (const chart of Object.values(charts)) chart.recolour();
  };
  button.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("clickledger-theme", theme);
    } catch {
      // Storage may be forbidden; the choice then lasts as long as the page.
    }
    show();
  });
  system.addEventListener("change", show);
  show();
}

addBreakdowns();
wireTheme();
at("crumbs").append(make("a", { href: "/dashboard", onclick: (event) => { event.preventDefault(); pick(""); } }, "All promotions"));
at("reload").addEventListener("click", () => load());
for (const button of document.querySelectorAll("[data-png]")) {
  button.addEventListener("click", () => charts[button.dataset.png].save(`clickledger-${button.dataset.png}.png`));
}
addEventListener("popstate", () => go(readState()));
watchHealth();
