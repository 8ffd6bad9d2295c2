const FIRST_MS = 100;
const LONGEST_MS = 10_000; // of what is waited by chance; the server may ask for more
const TIMER_MS = 2 ** 31 - 1; // a timer that is set to more goes off at once

/** The service, or something before it, asks to come again. */
export function isFull(response: Response): boolean {
  return response.status === 503 || response.status === 429;
}

/** How long to wait before the next attempt: at least as the server says, else twice as long each time. */
export function backoffMs(attempt: number, response: Response | undefined): number {
  const said = response?.headers.get("Retry-After") ?? null;
  const wait = said === null ? NaN : /^\d+$/.test(said) ? Number(said) * 1000 : Date.parse(said) - Date.now();
  const usual = Math.min(LONGEST_MS, FIRST_MS * 2 ** attempt);
  // Some more, by chance, so that clients who were refused together don't come together again.
  if (Number.isNaN(wait)) {
    return usual * (1 + Math.random() / 4);
  }
  const least = Math.max(0, wait);
  return least + Math.random() * Math.min(usual, Math.max(1000, least));
}

/** Waits, unless the signal comes first, whose reason is thrown then. */
export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, Math.min(ms, TIMER_MS));
    if (signal.aborted) {
      stop();
    } else {
      signal.addEventListener("abort", stop, { once: true });
    }
  });
}
