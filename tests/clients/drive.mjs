// Drives the TypeScript snippet: `drive.mjs COMPILED add|flush|try FOLDER URL KEY SHORT_URL MARK COUNT`, as drive.py.
const [compiled, verb, folder, url, key, shortUrl, mark, count] = process.argv.slice(2);
const { ClickQueue, FileStore } = await import(compiled);
const queue = await ClickQueue.open(new FileStore(`${folder}/clicks.json`), url, key);
let found;
if (verb === "try") {
  const wait = await queue.flush();
  found = { wait_ms: wait, error: queue.lastError };
} else {
  const refused = [];
  queue.onRefused = (_, code) => refused.push(code);
  if (verb === "add") {
    await queue.add(
      ...Array.from({ length: Number(count) }, (_, n) => ({ "short-url": shortUrl, "user-agent": `${mark}/${n}` })),
    );
  } else {
    for (let wait = await queue.flush(); wait !== null; wait = await queue.flush()) {
      await new Promise((done) => setTimeout(done, Math.min(wait, 1_000)));
    }
  }
  found = { refused };
}
process.stdout.write(JSON.stringify({ left: queue.length, ...found }));
