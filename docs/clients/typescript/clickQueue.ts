/**
 * Report clicks to Clickledger from a TypeScript app: an offline queue. Needs `fetch`; the file is for Node 18 or newer,
 * in an app give another `Store` (AsyncStorage, IndexedDB).
 *
 *   const queue = await ClickQueue.open(new FileStore("clicks.json"), "http://127.0.0.1:8080", key);
 *   await queue.add({ "short-url": "http://shortdomain/dsltrack/employee/j460A8" });
 *   const waitMs = await queue.flush(); // call again after so many ms; null: the queue is empty
 *
 * A click is stored before `add` resolves and leaves the store only after a final answer. It is sent with the same
 * Idempotency-Key however often, so that it counts once.
 */
import { randomUUID } from "node:crypto";
import { open, readFile, rename } from "node:fs/promises";

export const CLICKS_MAX = 10_000; // kept while offline; beyond it the oldest goes, counted in `dropped`
const TIMEOUT_MS = 10_000;
const BACKOFF_MS = [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000];
const PATH = "/campaignapi/resources/v3/shortlinkclicks";

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
  onRefused: (shortUrl: string, code: string, description: string) => void = () => {};
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
      const { status, answer, retryAfterMs } = await this.send(first);
      if (status === 401) throw new NotAuthorized(String(answer["description"] ?? ""));
      if (status === null || status === 429 || status >= 500) {
        const backoff = BACKOFF_MS[Math.min(this.failures++, BACKOFF_MS.length - 1)]!;
        return Math.max(retryAfterMs, backoff * (0.5 + Math.random() / 2));
      }
      // Anything else is final: 200 with an id, 200 with code 1010 (will never be recorded), or refused for good.
      this.failures = 0;
      this.waiting = this.waiting.filter((each) => each !== first);
      await this.save();
      if (!("transaction-id" in answer)) {
        this.onRefused(first.body["short-url"], String(answer["code"]), String(answer["description"]));
      }
    }
    return null;
  }

  private save(): Promise<void> {
    this.saving = this.saving.catch(() => {}).then(() => this.store.save(JSON.stringify(this.waiting)));
    return this.saving;
  }

  private async send(
    click: Waiting,
  ): Promise<{ status: number | null; answer: Record<string, unknown>; retryAfterMs: number }> {
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
      const after = Number(response.headers.get("retry-after") ?? "0");
      const text = await response.text();
      let answer: unknown = {};
      try {
        answer = JSON.parse(text);
      } catch {
        if (response.ok) return { status: null, answer: {}, retryAfterMs: 0 }; // a proxy's page is no answer
      }
      const fields = typeof answer === "object" && answer !== null ? (answer as Record<string, unknown>) : {};
      return { status: response.status, answer: fields, retryAfterMs: Number.isFinite(after) ? after * 1_000 : 0 };
    } catch {
      return { status: null, answer: {}, retryAfterMs: 0 }; // no connection, a time-out, an answer cut short
    }
  }
}
