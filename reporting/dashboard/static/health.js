// The health strip: whether the figures are current and proved, and what is not known.
import { duration, make, number } from "./words.js";

const FRESH_MS = [5_000, 60_000]; // a row within 5 s is good, within a minute a warning
const BEHIND_MS = [10_000, 60_000];
const AUDIT_MS = 86_400_000; // an audit of more than a day ago proves little about today

const level = (ms, [good, warn]) => (ms <= good ? "good" : ms <= warn ? "warn" : "bad");
const UNKNOWN = ["unknown", "not known"];

function freshness({ rows, p50_ms, p99_ms, window_s }) {
  if (rows === null) return UNKNOWN;
  if (rows === 0) return ["unknown", `no clicks in ${window_s / 60} min`];
  return [level(p99_ms, FRESH_MS), `p50 ${duration(p50_ms)}, p99 ${duration(p99_ms)}`];
}

function lag({ behind_ms }) {
  if (behind_ms === null) return UNKNOWN;
  return behind_ms === 0 ? ["good", "none"] : [level(behind_ms, BEHIND_MS), duration(behind_ms)];
}

function audit({ state, at, findings }, nowMs) {
  if (state === "unknown") return UNKNOWN;
  if (state === "never") return ["warn", "never"];
  const age = nowMs - Date.parse(at);
  const ago = `${duration(Math.max(0, age))} ago`;
  if (state === "not_clean") return ["bad", `${number(findings)} findings, ${ago}`];
  if (state === "no_verdict") return ["warn", `no verdict, ${ago}`];
  return [age > AUDIT_MS ? "warn" : "good", `clean, ${ago}`];
}

function gaps({ accepted }) {
  if (accepted === null) return UNKNOWN;
  return accepted === 0 ? ["good", "none"] : ["warn", `${number(accepted)} accepted`];
}

function spool({ processes, holding, silent }) {
  if (silent > 0) return ["bad", `${number(silent)} of ${number(processes)} not heard of`];
  if (holding > 0) return ["warn", `clicks wait at ${number(holding)} of ${number(processes)}`];
  return processes === 0 ? ["unknown", "none"] : ["good", "empty"];
}

const part = ({ state }) => (state === "ok" ? ["good", "answers"] : ["bad", "does not answer"]);

export function showHealth(list, health) {
  const at = Date.parse(health.at);
  const facts = [
    ["Fresh", freshness(health.freshness), "From the 200 to the row, your clicks of the last 15 minutes"],
    ["Lag", lag(health.lag), "Age of the oldest click that is in Kafka and in no figure yet"],
    ["Last audit", audit(health.audit, at), "clickledger audit: is every 200 exactly one row?"],
    ["Gaps", gaps(health.gaps), "Ranges of clicks that somebody accepted as lost"],
    ["Spool", spool(health.spool), "Clicks that wait on API machines' disks until Kafka takes them"],
    ["Kafka", part(health.kafka), "Where clicks come from"],
    ["ClickHouse", part(health.clickhouse), "Where figures come from"],
  ];
  list.replaceChildren(
    ...facts.map(([name, [found, text], why]) =>
      make("div", { title: why }, make("dt", {}, name), make("dd", { "data-level": found }, text)),
    ),
  );
}
