/**
 * Report clicks to Clickledger from a TypeScript app: an offline queue. Needs `fetch`; the file is for Node 18 or newer,
 * in an app give another `Store` (AsyncStorage, IndexedDB).
 *
 *   const queue = await ClickQueue.open(new FileStore("clicks.json"), "http://127.0.0.1:8080", key);
 *   await queue.add({ "short-url": "http://shortdomain/dsltrack/employee/j460A8" });
 *   const waitMs = await queue.flush(); // call again after so many ms, `queue.lastError` says why; null: it is empty
 *
 * A click is stored before `add` resolves and leaves the store only after a final answer, which the body alone tells. It
 * is sent with the same Idempotency-Key however often, so that it counts once.
 */
import { randomUUID } from "node:crypto";
import { open, readFile, rename } from "node:fs/promises";

export const CLICKS_MAX = 10_000; // kept while offline; beyond it the first goes, counted in `dropped`
const TIMEOUT_MS = 10_000;
const BACKOFF_MS = [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000];
const PATH = "/campaignapi/resources/v3/shortlinkclicks";
const REFUSED = ["499", "1001", "1002", "1003", "1010"]; // codes that are final: this click will never be recorded
const NOT_AUTHORIZED = ["430", "498"]; // nothing is wrong with the click

export interface Click {
  "short-url": string;
  "user-agent"?: string;
  "ip-address"?: string;
}
interface Waiting {
  id: string;
  body: Click & { "clicked-at": number };
}
export interface Store {
  load(): Promise<string | null>;
  /** Resolves when the text survives a crash. */
  save(text: string): Promise<void>;
}

/** The key is not valid (any more): the clicks stay in the queue; set `key` and flush again. */
export class NotAuthorized extends Error {}

export class FileStore implements Store {
  constructor(private readonly path: string) {}

  async load(): Promise<string | null> {
    try {
      return await readFile(this.path, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
      throw error;
    }
  }

  async save(text: string): Promise<void> {
    const file = await open(`${this.path}.new`, "w");
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(`${this.path}.new`, this.path);
  }
}

export class ClickQueue {
  dropped = 0;
  lastError = ""; // why the last try was no success; empty after one that was
  onRefused = (shortUrl: string, code: string, description: string): void =>
    console.warn(`click on ${shortUrl} refused: ${code} ${description}`);
  private failures = 0;
  private saving: Promise<void> = Promise.resolve();

  private constructor(
    private readonly store: Store,
    private readonly url: string,
    public key: string,
    private waiting: Waiting[],
  ) {}

  static async open(store: Store, url: string, key: string): Promise<ClickQueue> {
    const text = await store.load();
    return new ClickQueue(store, url.replace(/\/$/, "") + PATH, key, text === null ? [] : JSON.parse(text));
  }

  get length(): number {
    return this.waiting.length;
  }

  /** Keep clicks that happen now. */
  async add(...clicks: Click[]): Promise<void> {
    const now = Date.now(); // they may be sent much later
    this.waiting.push(...clicks.map((click) => ({ id: randomUUID(), body: { ...click, "clicked-at": now } })));
    const surplus = this.waiting.length - CLICKS_MAX;
    if (surplus > 0) {
      this.waiting.splice(0, surplus);
      this.dropped += surplus;
    }
    await this.save();
  }

  /** Send what waits, oldest first; the ms until it is worth trying again, null when nothing waits. */
  async flush(): Promise<number | null> {
    for (let first = this.waiting[0]; first !== undefined; first = this.waiting[0]) {
      const { answer, text, retryAfterMs } = await this.send(first);
      const [code, description] = [String(answer["code"]), String(answer["description"])];
      this.lastError = text;
      if (NOT_AUTHORIZED.includes(code)) throw new NotAuthorized(`${code} ${description}`);
      if (!("transaction-id" in answer) && !REFUSED.includes(code)) {
        // Not now, or no answer of Clickledger's at all: keep the click, behind the others, which may get through.
        if (this.waiting[0] === first) this.waiting.push(this.waiting.shift()!);
        await this.save();
        const backoff = BACKOFF_MS[Math.min(this.failures++, BACKOFF_MS.length - 1)]!;
        return Math.max(retryAfterMs, backoff * (0.5 + Math.random() / 2));
      }
      if (REFUSED.includes(code)) this.onRefused(first.body["short-url"], code, description);
      this.failures = 0;
      this.lastError = "";
      this.waiting = this.waiting.filter((each) => each !== first);
      await this.save();
    }
    return null;
  }

  private save(): Promise<void> {
    this.saving = this.saving.catch(() => {}).then(() => this.store.save(JSON.stringify(this.waiting)));
    return this.saving;
  }

  /** One attempt: the JSON object in the answer (else an empty one), how the answer reads, its Retry-After. */
  private async send(
    click: Waiting,
  ): Promise<{ answer: Record<string, unknown>; text: string; retryAfterMs: number }> {
    try {
      const response = await fetch(this.url, {
        method: "POST",
        headers: {
          authorization: `Bearer ${this.key}`,
          "content-type": "application/json",
          "idempotency-key": click.id,
        },
        body: JSON.stringify(click.body),
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      const text = await response.text();
      const after = Number(response.headers.get("retry-after"));
      return {
        answer: parseObject(text),
        text: `HTTP ${response.status}: ${text.slice(0, 200)}`,
        retryAfterMs: Number.isFinite(after) ? after * 1_000 : 0,
      };
    } catch (error) {
      const text = [error, (error as Error).cause].join(" "); // no connection, a time-out, an answer cut short
      return { answer: {}, text, retryAfterMs: 0 };
    }
  }
}

function parseObject(text: string): Record<string, unknown> {
  try {
    const found: unknown = JSON.parse(text);
    return typeof found === "object" && found !== null ? { ...found } : {};
  } catch {
    return {}; // a proxy's page
  }
}
