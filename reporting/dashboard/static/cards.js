// The cards below the filters: each takes a report's rows and shows them as a picture and a table.
import { ranked, peopleAndBots } from "./charts.js";
import { clock, dayName, empty, make, number, percent, table } from "./words.js";

export const LISTED = 50; // rows of a table
export const FILE_ROWS = 10_000; // the most that a report has
const RANKED_SHOWN = 8;
const BARS_SHOWN = 8;
const NO_CLICKS = "No clicks in this period. Choose a longer one, or another promotion.";

const sum = (rows, name) => rows.reduce((total, row) => total + (row[name] ?? 0), 0);
// Of promotions, those whose number of messages is known: only they may stand over and under a fraction line.
const known = (rows, name) => rows.filter((row) => row[name] !== null && row[name] > 0);
const rate = (rows, clicks, of) => (known(rows, of).length ? sum(known(rows, of), clicks) / sum(known(rows, of), of) : null);

export function showTotals(body, total, promotions) {
  const left = promotions.length - known(promotions, "delivered").length;
  const ofDelivered = left > 0 && left < promotions.length ? `of delivered; ${number(left)} without a number left out` : "of delivered messages";
  const share = total.clicks_all ? `${percent(total.bot_clicks / total.clicks_all)} of all clicks` : "of all clicks";
  const facts = [
    ["Clicks", number(total.clicks), "by people, each counted once"],
    ["Recipients who clicked", number(total.unique_recipients), "different people"],
    ["Click-through rate", percent(rate(promotions, "clicks", "delivered")), ofDelivered],
    ["Unique click-through", percent(rate(promotions, "unique_recipients", "delivered")), "recipients of delivered messages"],
    ["Bot clicks", number(total.bot_clicks), share],
    ["Repeated reports", number(total.duplicate_clicks), "copies of a click, not counted"],
  ];
  const tiles = facts.map(([name, value, note]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value), make("dd", { class: "note" }, note)));
  body.replaceChildren(make("dl", { class: "totals" }, ...tiles));
}

export function showLive(chart, list, minutes, zone) {
  const people = minutes.map((each) => each.people);
  const bots = minutes.map((each) => each.bots);
  const all = sum(minutes, "people");
  const label = `Clicks per minute in the last hour: ${number(all)} by people, ${number(sum(minutes, "bots"))} by bots.`;
  chart.show(label, peopleAndBots(minutes.map(({ minute }) => clock(minute, zone)), people, bots));
  if (!list.closest("details").open) return;
  const columns = [
    { label: "Minute", isName: true, of: ({ minute }) => clock(minute, zone) },
    { label: "People", of: (row) => number(row.people) },
    { label: "Bots", of: (row) => number(row.bots) },
  ];
  list.replaceChildren(table("Clicks per minute, the newest first", columns, minutes.toReversed()));
}

// Hours of a short period come with their offset from UTC, as 2026-05-31T10:00+02:00; days as 2026-05-31.
const momentName = (row) => (row.hour ? `${dayName(row.hour.slice(0, 10))}, ${row.hour.slice(11, 16)}` : dayName(row.day));

export function showTime(chart, list, rows) {
  if (!rows.some((row) => row.clicks_all > 0)) {
    chart.say(empty(NO_CLICKS));
    list.replaceChildren();
    return;
  }
  const label = `Clicks over time: ${number(sum(rows, "clicks"))} by people, ${number(sum(rows, "bot_clicks"))} by bots.`;
  chart.show(label, peopleAndBots(rows.map(momentName), rows.map((row) => row.clicks), rows.map((row) => row.bot_clicks)));
  const columns = [
    { label: "When", isName: true, of: momentName },
    { label: "Clicks", of: (row) => number(row.clicks) },
    { label: "Recipients", of: (row) => number(row.unique_recipients) },
    { label: "Bot clicks", of: (row) => number(row.bot_clicks) },
  ];
  list.replaceChildren(table("Clicks over time", columns, rows));
}

const counts = [
  { label: "Clicks", of: (row) => number(row.clicks) },
  { label: "Recipients", of: (row) => number(row.unique_recipients) },
  { label: "Bot clicks", of: (row) => number(row.bot_clicks) },
];
const rates = [
  { label: "Sent", of: (row) => number(row.sent) },
  { label: "Delivered", of: (row) => number(row.delivered) },
  ...counts,
  { label: "CTR of sent", of: (row) => percent(row.ctr_sent) },
  { label: "CTR of delivered", of: (row) => percent(row.ctr_delivered) },
  { label: "Unique CTR", of: (row) => percent(row.unique_ctr_delivered) },
];

export function showPromotions(chart, list, { rows, groups }, pick) {
  const clicked = rows.filter((row) => row.clicks_all > 0);
  if (clicked.length) drawPromotions(chart, clicked, pick);
  else chart.say(empty(NO_CLICKS));
  if (!rows.length) {
    list.replaceChildren();
    return;
  }
  const name = {
    label: "Promotion", isName: true,
    of: (row) => make("span", {},
      make("button", { type: "button", class: "name", onclick: () => pick(row.promotion_id) }, row.promotion),
      row.promotion === row.promotion_id ? null : make("span", { class: "id" }, row.promotion_id)),
  };
  fill(list, "Click-through by promotion; a name leads to its links", [name, ...rates], rows, groups);
}

function drawPromotions(chart, rows, pick) {
  const shown = rows.slice(0, RANKED_SHOWN);
  const isRate = shown.some((row) => row.ctr_delivered !== null);
  const names = isRate ? ["CTR of delivered", "Unique CTR"] : ["Clicks"];
  const values = (row) => (isRate ? [row.ctr_delivered, row.unique_ctr_delivered] : [row.clicks]);
  const label = `${names[0]} by promotion: ${shown.map((row) => `${row.promotion} ${isRate ? percent(row.ctr_delivered) : number(row.clicks)}`).join(", ")}.`;
  chart.show(label, ranked(shown.map((row) => ({ name: row.promotion, values: values(row) })), names, isRate));
  chart.onPick((index) => pick(shown[index].promotion_id));
}

export function showLinks(chart, list, { rows, groups }) {
  if (!rows.length) {
    chart.say(empty(NO_CLICKS));
    list.replaceChildren();
    return;
  }
  const shown = rows.slice(0, RANKED_SHOWN);
  const label = `Clicks by link: ${shown.map((row) => `${row.link} ${number(row.clicks)}`).join(", ")}.`;
  chart.show(label, ranked(shown.map((row) => ({ name: row.link, values: [row.clicks] })), ["Clicks"], false));
  const columns = [
    { label: "Link", isName: true, of: (row) => row.link },
    { label: "Name", of: (row) => row.link_name },
    ...counts,
  ];
  fill(list, "Clicks by link of the promotion", columns, rows, groups);
}

// The first of so many groups as a table.
function fill(list, caption, columns, rows, groups) {
  list.replaceChildren(table(caption, columns, rows.slice(0, LISTED)));
  if (groups <= LISTED) return;
  const files = groups <= FILE_ROWS
    ? "are in the CSV and XLSX files."
    : `are not shown. The CSV and XLSX files have the ${number(FILE_ROWS)} with the most clicks, an EDR export has every click.`;
  list.append(make("p", { class: "more" }, `${number(groups - LISTED)} more ${files}`));
}

const ofPromotions = (count) => (count === 1 ? "the promotion" : `${number(count)} promotions`);

export function showFunnel(body, { rows, groups }) {
  const counted = rows.filter((row) => row.sent > 0 && row.delivered !== null);
  if (!counted.length) {
    const why = rows.length ? "It is not known how many messages were sent. `clickledger promotions load` tells it." : NO_CLICKS;
    body.replaceChildren(empty(why));
    return;
  }
  const [sent, delivered, clicked] = ["sent", "delivered", "unique_recipients"].map((name) => sum(counted, name));
  const steps = [
    ["Sent", sent, "messages"],
    ["Delivered", delivered, `${percent(delivered / sent)} of sent`],
    ["Clicked", clicked, delivered ? `${percent(clicked / delivered)} of delivered, by recipient` : "by recipient"],
  ];
  const list = make("ol", { class: "funnel" });
  for (const [name, count, share] of steps) {
    const bar = make("span");
    bar.style.width = `${Math.min(100, (100 * count) / Math.max(sent, delivered, clicked))}%`;
    list.append(make("li", {},
      make("div", { class: "row" }, make("span", {}, name), make("strong", {}, number(count))),
      make("div", { class: "track", "aria-hidden": "true" }, bar),
      make("span", { class: "share" }, share)));
  }
  const left = rows.length - counted.length;
  const notes = [`Messages are all that ${ofPromotions(counted.length)} ever had, whatever the period; clicks are those of the period.`];
  if (left) notes.unshift(`${number(left)} of ${number(rows.length)} promotions are left out: their messages were not counted.`);
  if (groups > rows.length) notes.unshift(`Of ${number(groups)} promotions these are the ${number(rows.length)} with the most clicks.`);
  body.replaceChildren(list, make("p", { class: "more" }, notes.join(" ")));
}

const countries = new Intl.DisplayNames("en", { type: "region", fallback: "code" });

// An agent that names no phone, tablet or PC is of the kind "other"; only a click without an agent has no kind.
const KINDS = { other: "other kinds", Others: "no user agent" };

export const BREAKDOWNS = [
  { by: "browser", title: "Browsers" },
  { by: "os", title: "Operating systems" },
  { by: "device_type", title: "Kinds of device", shown: (kind) => KINDS[kind] ?? kind },
  { by: "device", title: "Devices" },
  { by: "resolution", title: "Screen resolutions" },
  { by: "country", title: "Countries", shown: (code) => (/^[A-Z]{2}$/.test(code) ? countries.of(code) : code) },
  { by: "bot_reason", title: "Bots, by what gave them away", number: "bot_clicks", class: "bots" },
];

export function showBreakdown(body, { title, by, shown = (text) => text, number: name = "clicks" }, rows) {
  const counted = rows.filter((row) => row[name] > 0).toSorted((one, other) => other[name] - one[name]);
  if (!counted.length) {
    body.replaceChildren(empty(name === "bot_clicks" ? "No bots in this period." : NO_CLICKS));
    return;
  }
  const all = sum(counted, name);
  const most = counted[0][name];
  const columns = [
    { label: title, isName: true, of: (row) => make("span", {}, shown(row[by]), bar(row[name] / most)) },
    { label: "Clicks", of: (row) => number(row[name]) },
    { label: "Share", of: (row) => percent(row[name] / all) },
  ];
  const found = table(`${title}: clicks and their share`, columns, counted.slice(0, BARS_SHOWN));
  found.classList.add("bars");
  found.tHead.className = "visually-hidden";
  body.replaceChildren(found);
  const rest = counted.slice(BARS_SHOWN);
  if (rest.length) body.append(make("p", { class: "more" }, `${number(rest.length)} more: ${number(sum(rest, name))} clicks`));
}

function bar(share) {
  const found = make("span", { class: "bar", "aria-hidden": "true" });
  found.style.width = `${100 * share}%`;
  return found;
}
