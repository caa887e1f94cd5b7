// Drives real players in one headless Chromium. Reads one JSON object a line from standard input:
// `{"page": URL}` first, then a player's options for each session (see player.js; `limit_ms` is
// how long the viewer stays). Writes the players' reports, one JSON object a line, each with the
// session's `id`; `closed` is a session's last. Ends with its input, when every viewer has left.

import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const FLAGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
  '--autoplay-policy=no-user-gesture-required', '--mute-audio', '--ignore-certificate-errors',
  '--disable-dev-shm-usage', '--disable-background-timer-throttling',
  '--disable-renderer-backgrounding', '--disable-backgrounding-occluded-windows',
  // The lab's addresses are private ones.
  '--disable-features=LocalNetworkAccessChecks,PrivateNetworkAccessChecks',
];

const write = (line) => process.stdout.write(`${line}\n`);
const say = (id, event, more = {}) =>
  write(JSON.stringify({ id, event, t: Date.now(), ...more }));

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  headless: true,
  args: FLAGS,
});
write(JSON.stringify({ id: '', event: 'ready', t: Date.now(), version: browser.version() }));

async function session(page_url, options) {
  // A context of its own: no cache, cookie or connection is another viewer's.
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  let over = () => {};
  const left = new Promise((resolve) => { over = resolve; });
  try {
    await page.exposeFunction('report', (line) => {
      write(line);
      if (line.includes('"event":"ended"')) over('ended');
    });
    page.on('crash', () => over('crash'));
    page.on('pageerror', (error) =>
      say(options.id, 'error', { fatal: false, kind: 'page', details: String(error).slice(0, 200) }));
    await page.goto(page_url);
    await page.evaluate((given) => window.play(given), options);
    const timer = setTimeout(() => over('left'), options.limit_ms);
    const how = await left;
    clearTimeout(timer);
    // Before the page goes: what the viewer saw ends here.
    say(options.id, 'leaving', { how });
  } catch (error) {
    say(options.id, 'error', { fatal: true, kind: 'driver', details: String(error).slice(0, 400) });
  }
  await context.close();
  say(options.id, 'closed');
}

let page_url = '';
const sessions = [];
for await (const line of createInterface({ input: process.stdin })) {
  const given = JSON.parse(line);
  if (given.page) {
    page_url = given.page;
  } else {
    sessions.push(session(page_url, given));
  }
}
await Promise.all(sessions);
await browser.close();
