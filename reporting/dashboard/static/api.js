// Asks the reports. The session cookie says who asks; a refusal tells the caller what to do by its class.

export class Away extends Error {} // try again by itself: 503, 429, no answer
export class Refused extends Error {} // another question is needed: 400, 403, 413

const PATIENCE_MS = 12_000;

export function addressOf(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) if (value !== undefined) query.set(name, value);
  return query.size ? `${path}?${query}` : path;
}

export function goToLogin() {
  const here = location.pathname + location.search;
  location.assign(`/login#${new URLSearchParams({ next: here })}`);
}

// Raises Away, Refused, or the AbortError of `signal`.
export async function getJson(path, parameters, signal) {
  const patience = AbortSignal.timeout(PATIENCE_MS);
  let response;
  try {
    response = await fetch(addressOf(path, parameters), {
      headers: { Accept: "application/json" },
      signal: signal ? AbortSignal.any([signal, patience]) : patience,
    });
    if (response.ok) return await response.json();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Away(error.name === "TimeoutError" ? "no answer in time" : "no connection");
  }
  throw await errorOf(response);
}

// The error for an answer that is none; a session that has ended leads to the login.
export async function errorOf(response) {
  if (response.status === 401) {
    goToLogin();
    return new Refused("The session has ended.");
  }
  const told = await response.json().catch(() => ({}));
  const text = told.description ?? `The answer was ${response.status}.`;
  return response.status >= 500 || response.status === 429 ? new Away(text) : new Refused(text);
}
