// Clicks per minute. What is older than a minute at the start comes from the table, everything since from the event
// stream, so that no click is counted from both. The stream is read with fetch instead of EventSource, which hides the
// status (a session that has ended, a position that is gone) and gives up for ever at a 503.
import { Away, addressOf, errorOf, getJson, goToLogin, Refused } from "./api.js";

const MINUTE_MS = 60_000;
export const MINUTES = 60;
const SILENCE_MS = 60_000; // heartbeats come more often than that
const RETRY_MS = [1_000, 10_000];

const minuteOf = (ms) => Math.floor(ms / MINUTE_MS) * MINUTE_MS;

export class Live {
  #counts = new Map(); // minute (ms) -> [people, bots]
  #boundary = 0; // minutes from here on are the stream's
  #position = "";
  #promotion = "";
  #isSeeded = false;
  #stop = new AbortController();
  #now;
  #onChange;
  #onState;

  // `now` is the server's time in ms: the reader's clock may be wrong.
  constructor(now, onChange, onState) {
    this.#now = now;
    this.#onChange = onChange;
    this.#onState = onState;
  }

  // Begin anew for a promotion, '' for all.
  start(promotion) {
    this.#promotion = promotion;
    this.#forget();
    this.resume();
  }

  // Go on behind the last event.
  resume() {
    this.stop();
    this.#stop = new AbortController();
    this.#run(this.#stop.signal);
  }

  stop() {
    this.#stop.abort();
  }

  // The last hour's minutes in order, the running one last.
  minutes() {
    const last = minuteOf(this.#now());
    return Array.from({ length: MINUTES }, (_, index) => {
      const minute = last - (MINUTES - 1 - index) * MINUTE_MS;
      const [people, bots] = this.#counts.get(minute) ?? [0, 0];
      return { minute, people, bots };
    });
  }

  // Fill in what the table knows of the minutes before the stream; again after it was away.
  async seed() {
    if (this.#isSeeded) return;
    const signal = this.#stop.signal;
    const { rows } = await getJson("/v1/reports/minutes", { promotion_id: this.#promotion || undefined }, signal);
    if (signal.aborted) return;
    for (const row of rows) {
      const minute = Date.parse(row.minute);
      if (minute < this.#boundary) this.#counts.set(minute, [row.clicks, row.bot_clicks]);
    }
    this.#isSeeded = true;
    this.#onChange();
  }

  #forget() {
    this.#counts.clear();
    this.#boundary = minuteOf(this.#now()) - MINUTE_MS;
    this.#position = "";
    this.#isSeeded = false;
    this.#onChange();
  }

  async #run(signal) {
    let pauseMs = RETRY_MS[0];
    while (!signal.aborted) {
      try {
        this.seed().catch(() => {}); // the page says what is away; the next round, or recovery, asks again
        await this.#follow(signal, () => (pauseMs = RETRY_MS[0]));
      } catch (error) {
        if (signal.aborted) return;
        const isKnown = error instanceof Away || error instanceof Refused || ["AbortError", "TypeError"].includes(error.name);
        if (!isKnown) throw error; // a bug; a connection that breaks is a TypeError
      }
      if (signal.aborted) return;
      this.#onState("reconnecting");
      await new Promise((resolve) => setTimeout(resolve, pauseMs * (0.8 + 0.4 * Math.random())));
      pauseMs = Math.min(pauseMs * 2, RETRY_MS[1]);
    }
  }

  // One connection, to its end.
  async #follow(signal, onOpen) {
    const silence = new AbortController();
    const parameters = { status: "accepted", promotion_id: this.#promotion || undefined };
    if (!this.#position) parameters.from = this.#boundary;
    const headers = { Accept: "text/event-stream", ...(this.#position && { "Last-Event-ID": this.#position }) };
    let timer = setTimeout(() => silence.abort(), SILENCE_MS);
    try {
      const both = AbortSignal.any([signal, silence.signal]);
      const response = await fetch(addressOf("/v1/rte", parameters), { headers, signal: both });
      if (response.status === 410) {
        this.#forget(); // longer away than Kafka keeps clicks: what is gone from there is in the table
        throw new Away("position gone");
      }
      if (!response.ok) throw await errorOf(response);
      onOpen();
      this.#onState("live");
      for await (const fields of events(response.body)) {
        clearTimeout(timer);
        timer = setTimeout(() => silence.abort(), SILENCE_MS);
        this.#take(fields);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  #take({ id, event, data }) {
    if (id) this.#position = id;
    if (!data) return;
    const told = JSON.parse(data);
    if (event === "closed") {
      if (told.reason === "key") goToLogin();
      if (told.reason === "stream_replaced" || told.reason === "lost") this.#forget();
      return;
    }
    const minute = minuteOf(Date.parse(told.data.received_at));
    if (minute < this.#boundary) return; // the table's
    const count = this.#counts.get(minute) ?? [0, 0];
    count[told.data.is_bot ? 1 : 0] += 1;
    this.#counts.set(minute, count);
    for (const old of this.#counts.keys()) {
      if (old < minute - 2 * MINUTES * MINUTE_MS) this.#counts.delete(old);
    }
    this.#onChange();
  }
}

// Server-sent events of a body, as { id, event, data }.
async function* events(body) {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of pieces(body)) {
    rest += decoder.decode(bytes, { stream: true });
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = {};
      for (const line of block.split("\n")) {
        const colon = line.indexOf(":");
        if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).replace(/^ /, "");
      }
      yield fields;
    }
  }
}

async function* pieces(body) {
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
