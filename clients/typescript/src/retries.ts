const FIRST_MS = 100;
const LONGEST_MS = 10_000;

/** The service, or something before it, asks to come again. */
export function isFull(response: Response): boolean {
  return response.status === 503 || response.status === 429;
}

/** How long to wait before the next attempt: as the server says, else twice as long each time. */
export function backoffMs(attempt: number, response: Response | undefined): number {
  const said = response?.headers.get("Retry-After") ?? null;
  const wait = said === null ? NaN : /^\d+$/.test(said) ? Number(said) * 1000 : Date.parse(said) - Date.now();
  const least = Number.isNaN(wait) ? FIRST_MS * 2 ** attempt : Math.max(0, wait);
  // Some more, by chance, so that clients who were refused together don't come together again.
  return Math.min(LONGEST_MS, least * (1 + Math.random() / 4));
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
    }, ms);
    if (signal.aborted) {
      stop();
    } else {
      signal.addEventListener("abort", stop, { once: true });
    }
  });
}
